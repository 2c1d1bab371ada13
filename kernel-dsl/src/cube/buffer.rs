//! Values on a device, and token rows inside of them.

use cubecl::ir::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::BufferArg;
use cubecl::server::Handle;
use half::slice::HalfFloatSliceExt;

use super::{Client, Error, Limits};
use crate::shape::{Extent, Operator, Role};

/// Type of the values in a buffer. Sums and states are f32 in every kernel, whatever the inputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision: 24 bits of mantissa.
    F32,
    /// IEEE half precision: 11 bits of mantissa, at most 65504.
    F16,
    /// The upper half of an f32: 8 bits of mantissa.
    BF16,
}

impl DType {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// CubeCL's name of the type.
    pub fn elem(self) -> ElemType {
        ElemType::Float(match self {
            Self::F32 => FloatKind::F32,
            Self::F16 => FloatKind::F16,
            Self::BF16 => FloatKind::BF16,
        })
    }

    /// Whether buffers of a client's device can hold this type.
    pub fn is_supported(self, client: &Client) -> bool {
        client
            .features()
            .type_usage(self.elem())
            .contains(TypeUsage::Buffer)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

/// `len` values of one type in the memory of one device. Clones share the memory.
#[derive(Clone, Debug)]
pub struct DeviceBuffer {
    handle: Handle,
    len: usize,
    dtype: DType,
}

impl DeviceBuffer {
    /// The first `len` values of memory that the caller allocated.
    ///
    /// # Errors
    /// [`Error::Shape`] when the memory is shorter.
    pub fn new(handle: Handle, len: usize, dtype: DType) -> Result<Self, Error> {
        let found = handle.size_in_used() / dtype.size() as u64;
        if (len as u64) > found {
            BUFFER.values("memory", len, usize::try_from(found).unwrap_or(usize::MAX))?;
        }
        Ok(Self { handle, len, dtype })
    }

    /// Memory for `len` values, of which nothing has been written.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when the device cannot hold it in one buffer, [`Error::Capability`] when it lacks the type.
    pub fn empty(client: &Client, len: usize, dtype: DType) -> Result<Self, Error> {
        if !dtype.is_supported(client) {
            return Err(Error::Capability {
                capability: match dtype {
                    DType::F32 => "f32",
                    DType::F16 => "f16",
                    DType::BF16 => "bf16",
                },
                needed_for: "a buffer of it",
            });
        }
        // A binding of no bytes is no binding: an empty buffer has room for one value.
        let bytes = (len.max(1) as u64)
            .saturating_mul(dtype.size() as u64)
            .next_multiple_of(4);
        let limit = Limits::of(client).buffer_bytes;
        if bytes > limit {
            return Err(Error::TooLarge {
                what: "the size of a buffer in bytes",
                limit,
                found: bytes,
            });
        }
        let handle = client.empty(bytes as usize);
        Ok(Self { handle, len, dtype })
    }

    /// A copy of f32 values.
    ///
    /// # Errors
    /// As for [`DeviceBuffer::empty`].
    pub fn from_f32(client: &Client, values: &[f32]) -> Result<Self, Error> {
        Self::from_f32_as(client, values, DType::F32)
    }

    /// A copy of f32 values, rounded to `dtype`.
    ///
    /// # Errors
    /// As for [`DeviceBuffer::empty`].
    pub fn from_f32_as(client: &Client, values: &[f32], dtype: DType) -> Result<Self, Error> {
        if values.is_empty() {
            return Self::empty(client, 0, dtype);
        }
        let mut bytes = match dtype {
            DType::F32 => bytemuck::cast_slice(values).to_vec(),
            DType::F16 => {
                let mut rounded = vec![half::f16::ZERO; values.len()];
                rounded.convert_from_f32_slice(values);
                bytemuck::cast_slice(&rounded).to_vec()
            }
            DType::BF16 => {
                let mut rounded = vec![half::bf16::ZERO; values.len()];
                rounded.convert_from_f32_slice(values);
                bytemuck::cast_slice(&rounded).to_vec()
            }
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        // Allocating first checks size and type.
        let limit = Limits::of(client).buffer_bytes;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge {
                what: "the size of a buffer in bytes",
                limit,
                found: bytes.len() as u64,
            });
        }
        if !dtype.is_supported(client) {
            return Self::empty(client, values.len(), dtype);
        }
        Ok(Self {
            handle: client.create_from_slice(&bytes),
            len: values.len(),
            dtype,
        })
    }

    /// Waits for the device and copies the values to the host, widened to f32.
    ///
    /// # Errors
    /// [`Error::Device`] when anything failed that these values depend on.
    pub fn read(&self, client: &Client) -> Result<Vec<f32>, Error> {
        if self.len == 0 {
            return Ok(Vec::new());
        }
        let bytes = client
            .read_one(self.handle.clone())
            .map_err(|error| Error::Device(error.to_string()))?;
        let bytes = &bytes[..self.len * self.dtype.size()];
        let mut values = vec![0.0; self.len];
        match self.dtype {
            DType::F32 => values.copy_from_slice(&bytemuck::pod_collect_to_vec::<u8, f32>(bytes)),
            DType::F16 => {
                bytemuck::pod_collect_to_vec::<u8, half::f16>(bytes).convert_to_f32_slice(&mut values);
            }
            DType::BF16 => {
                bytemuck::pod_collect_to_vec::<u8, half::bf16>(bytes).convert_to_f32_slice(&mut values);
            }
        }
        Ok(values)
    }

    /// Whether the launches so far that write this buffer could be compiled and bound; does not wait for them to run.
    ///
    /// # Errors
    /// [`Error::Device`] with the runtime's own words.
    pub fn check(&self, client: &Client) -> Result<(), Error> {
        client
            .check([&self.handle])
            .map_err(|error| Error::Device(error.to_string()))
    }

    /// Number of values in the buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Handle of the device memory that holds the values.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The buffer as an argument of a launch.
    pub(crate) fn arg(&self) -> BufferArg {
        // SAFETY: every constructor makes sure that the memory holds `len` values (one, if `len` is 0).
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len.max(1)) }
    }
}

/// `rows` rows of `cols` values, of which the first begins at `offset` and each next one `stride` values later.
///
/// # Shapes
/// Row `i` is the values `offset + i·stride .. offset + i·stride + cols` of the buffer.
#[derive(Clone, Debug)]
pub struct DeviceRows {
    buffer: DeviceBuffer,
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl DeviceRows {
    /// A view of rows inside a buffer.
    ///
    /// # Errors
    /// [`Error::Shape`] when the buffer ends before the last row does, or rows would overlap.
    pub fn new(
        buffer: DeviceBuffer,
        offset: usize,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Result<Self, Error> {
        if rows > 1 && stride < cols {
            VIEW.values("stride", cols, stride)?;
        }
        let expected = match rows {
            0 => offset,
            _ => (rows - 1)
                .saturating_mul(stride)
                .saturating_add(cols)
                .saturating_add(offset),
        };
        if buffer.len < expected {
            VIEW.values("buffer", expected, buffer.len)?;
        }
        Ok(Self {
            buffer,
            offset,
            rows,
            cols,
            stride,
        })
    }

    /// A view of rows that lie one after another from the beginning of the buffer.
    ///
    /// # Errors
    /// [`Error::Shape`] when the buffer is shorter.
    pub fn contiguous(buffer: DeviceBuffer, rows: usize, cols: usize) -> Result<Self, Error> {
        Self::new(buffer, 0, rows, cols, cols)
    }

    /// The buffer that the rows lie in.
    pub fn buffer(&self) -> &DeviceBuffer {
        &self.buffer
    }

    /// Where row 0 begins, in values.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of rows in the view.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Distance between the beginnings of two rows, in values.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype
    }
}

/// What a wrong buffer or view is called.
const BUFFER: Operator = Operator("device buffer");
const VIEW: Operator = Operator("device rows");

impl Operator {
    /// An operand that is one buffer on a device.
    pub(crate) fn device_values(
        self,
        operand: &'static str,
        (len, dtype): (usize, DType),
        buffer: &DeviceBuffer,
    ) -> Result<(), Error> {
        self.values(operand, len, buffer.len)?;
        self.device_type(Role::Value, operand, dtype, buffer.dtype)
    }

    /// An operand that is a view of tokens on a device.
    pub(crate) fn device_rows(
        self,
        operand: &'static str,
        shape: (usize, usize),
        dtype: DType,
        view: &DeviceRows,
    ) -> Result<(), Error> {
        self.device_view(Role::Value, operand, shape, dtype, view)
    }

    /// The cotangent of an output on a device.
    pub(crate) fn device_cotangent_rows(
        self,
        operand: &'static str,
        shape: (usize, usize),
        dtype: DType,
        view: &DeviceRows,
    ) -> Result<(), Error> {
        self.device_view(Role::Cotangent, operand, shape, dtype, view)
    }

    fn device_view(
        self,
        role: Role,
        operand: &'static str,
        (rows, cols): (usize, usize),
        dtype: DType,
        view: &DeviceRows,
    ) -> Result<(), Error> {
        let found = Extent::Rows {
            rows: view.rows,
            cols: view.cols,
        };
        self.expect(role, operand, Extent::Rows { rows, cols }, found)?;
        self.device_type(role, operand, dtype, view.dtype())
    }

    pub(crate) fn device_type(
        self,
        role: Role,
        operand: &'static str,
        expected: DType,
        found: DType,
    ) -> Result<(), Error> {
        match expected == found {
            true => Ok(()),
            false => Err(Error::Type {
                operator: self.0,
                operand,
                role,
                expected,
                found,
            }),
        }
    }
}
