//! Devices by their properties, as CubeCL's own runtimes would describe them after asking the driver.

use cubecl::cmma::MatrixLayout;
use cubecl::ir::features::{Plane, Tma, TypeUsage};
use cubecl::ir::{
    ContiguousElements, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    MemoryDeviceProperties, MmaProperties, OpaqueType, TargetProperties, amd::GfxArch,
};
use cubecl::prelude::VectorSize;
use cubecl::profile::TimingMethod;
use cubecl::{CompilationError, Compiler, CubeKernel, define_kernel};
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::{CudaCmmaCompiler, manual::contiguous_elements_cuda};
use cubecl_cpp::hip::mma::{HipCmmaCompiler, manual::contiguous_elements_rdna3};
use cubecl_cpp::metal::{arch::MetalArchitecture, supported_cmma_combinations_metal};
use cubecl_cpp::shared::{
    CompilationOptions, ComputeKernel, CppCompiler, CppSupportedFeatures, register_mma_features,
    register_wmma_features,
};
use cubecl_cpp::{cuda, hip, register_supported_types, target};

/// What a target's compiler reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// CUDA C++, for NVRTC.
    Cuda,
    /// HIP C++, for hipRTC.
    Hip,
    /// The Metal shading language.
    Metal,
}

/// A device that kernels are lowered for, known by its properties alone.
#[derive(Clone, Debug)]
pub struct LoweringTarget {
    architecture: String,
    language: Language,
    properties: DeviceProperties,
    target_properties: TargetProperties,
    options: CompilationOptions,
}

impl LoweringTarget {
    /// Every target that the tests lower for: A100, H100, MI300 and Apple's GPUs.
    pub fn all() -> Vec<Self> {
        vec![Self::a100(), Self::h100(), Self::mi300(), Self::apple()]
    }

    /// NVIDIA A100: compute capability 8.0.
    pub fn a100() -> Self {
        Self::cuda(80, 163 << 10, 108)
    }

    /// NVIDIA H100 and H200: compute capability 9.0.
    pub fn h100() -> Self {
        Self::cuda(90, 227 << 10, 132)
    }

    /// A CUDA device of a compute capability (80 is 8.0), as CubeCL's CUDA runtime describes it for the C++ compiler.
    fn cuda(capability: u32, shared_memory: usize, multiprocessors: u32) -> Self {
        let architecture = CudaArchitecture {
            version: capability,
            tensor_cores: true,
        };
        let hopper = capability >= 90;
        let mut properties = properties(HardwareProperties {
            max_shared_memory_size: shared_memory,
            num_streaming_multiprocessors: Some(multiprocessors),
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            max_cube_count: (i32::MAX as u32, u16::MAX.into(), u16::MAX.into()),
            ..hardware(32)
        });
        register_supported_types(&mut properties);
        properties.register_type_usage(ElemType::Float(FloatKind::TF32), TypeUsage::Conversion);
        properties.register_opaque_type(OpaqueType::Barrier);
        let wmma = CudaCmmaCompiler::Cpp.supported_cmma_combinations(&architecture);
        register_wmma_features(wmma, &mut properties);
        register_mma_features(cuda::supported_mma_combinations(&architecture), &mut properties);
        let features = &mut properties.features;
        features.copy_async = true;
        features.memory_reinterpret = true;
        features.alignment = true;
        features.device_memory_scope = true;
        features.cube_cluster = hopper;
        for operation in [Plane::Ops, Plane::Sync, Plane::NonUniformControlFlow] {
            features.plane.insert(operation);
        }
        for half in [FloatKind::F16, FloatKind::BF16] {
            features.matmul.ldmatrix.insert(ElemType::Float(half));
            if hopper {
                features.matmul.stmatrix.insert(ElemType::Float(half));
            }
        }
        if hopper {
            features.tma.insert(Tma::Base);
            properties.register_opaque_type(OpaqueType::TensorMap);
        }
        let suffix = if hopper { "a" } else { "" };
        Self {
            architecture: format!("sm_{capability}{suffix}"),
            language: Language::Cuda,
            properties,
            target_properties: TargetProperties {
                mma: MmaProperties {
                    register_size_bits: 32,
                    const_plane_size: 32,
                    register_layout_a: MatrixLayout::RowMajor,
                    register_layout_b: MatrixLayout::ColMajor,
                    register_layout_acc: MatrixLayout::RowMajor,
                    register_duplication_a: 1,
                    register_duplication_b: 1,
                    register_duplication_acc: 1,
                    contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
                },
            },
            options: CompilationOptions {
                warp_size: 32,
                supports_features: CppSupportedFeatures {
                    grid_constants: true,
                    clusters: hopper,
                    fast_math: true,
                    fast_tanh: true,
                    elect_sync: hopper,
                    dp4a: true,
                },
                amd_wmma: None,
            },
        }
    }

    /// AMD Instinct MI300: gfx942, planes of 64.
    pub fn mi300() -> Self {
        let gfx = GfxArch::parse("gfx942");
        let plane = gfx.plane_dim().unwrap_or(64);
        let mut properties = properties(HardwareProperties {
            max_shared_memory_size: 64 << 10,
            num_streaming_multiprocessors: Some(304),
            min_tensor_cores_dim: Some(16),
            ..hardware(plane)
        });
        register_supported_types(&mut properties);
        let wmma = HipCmmaCompiler::RocWmma.supported_cmma_combinations(&gfx.family());
        register_wmma_features(wmma, &mut properties);
        register_mma_features(hip::supported_mma_combinations(&gfx.family()), &mut properties);
        let features = &mut properties.features;
        features.memory_reinterpret = true;
        features.alignment = true;
        features.device_memory_scope = true;
        features.plane.insert(Plane::Ops);
        features.plane.insert(Plane::NonUniformControlFlow);
        Self {
            architecture: gfx.name().to_owned(),
            language: Language::Hip,
            properties,
            target_properties: TargetProperties {
                mma: MmaProperties {
                    register_size_bits: 32,
                    const_plane_size: 32,
                    register_layout_a: MatrixLayout::RowMajor,
                    register_layout_b: MatrixLayout::ColMajor,
                    register_layout_acc: MatrixLayout::ColMajor,
                    register_duplication_a: 2,
                    register_duplication_b: 2,
                    register_duplication_acc: 1,
                    contiguous_elements: ContiguousElements::new(contiguous_elements_rdna3),
                },
            },
            options: CompilationOptions {
                warp_size: plane as usize,
                supports_features: CppSupportedFeatures {
                    fast_math: true,
                    ..CppSupportedFeatures::default()
                },
                amd_wmma: gfx.wmma(),
            },
        }
    }

    /// A GPU of Apple's with Metal 3: no f64, vectors of at most four, 32 KiB of threadgroup memory.
    pub fn apple() -> Self {
        let mut properties = properties(HardwareProperties {
            max_bindings: 30,
            max_shared_memory_size: 32 << 10,
            max_vector_size: 4,
            ..hardware(32)
        });
        register_supported_types(&mut properties);
        let f64 = ElemType::Float(FloatKind::F64);
        properties.features.types.elem.remove(&f64);
        let wmma = supported_cmma_combinations_metal(&MetalArchitecture::Metal3);
        register_wmma_features(wmma, &mut properties);
        properties.features.alignment = true;
        properties.features.device_memory_scope = true;
        for operation in [Plane::Ops, Plane::Sync, Plane::NonUniformControlFlow] {
            properties.features.plane.insert(operation);
        }
        Self {
            architecture: "metal3".to_owned(),
            language: Language::Metal,
            properties,
            target_properties: TargetProperties::default(),
            options: CompilationOptions::default(),
        }
    }

    /// The name that the target's compiler has for it: `sm_80`, `sm_90a`, `gfx942`, `metal3`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// What the target's compiler reads.
    pub fn language(&self) -> Language {
        self.language
    }

    /// What plans are chosen from.
    pub(super) fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    /// How matrices lie in registers.
    pub(super) fn target_properties(&self) -> &TargetProperties {
        &self.target_properties
    }

    /// Most shared memory that a cube may take, in bytes.
    pub fn max_shared_memory(&self) -> usize {
        self.properties.hardware.max_shared_memory_size
    }

    /// The kernel in the target's language.
    pub(super) fn lower(&self, kernel: &dyn CubeKernel) -> Result<ComputeKernel, CompilationError> {
        match self.language {
            Language::Cuda => self.compile(CppCompiler::<target::Cuda>::default(), kernel),
            Language::Hip => self.compile(CppCompiler::<target::Hip>::default(), kernel),
            Language::Metal => self.compile(CppCompiler::<target::Metal>::default(), kernel),
        }
    }

    fn compile<C>(&self, mut compiler: C, kernel: &dyn CubeKernel) -> Result<ComputeKernel, CompilationError>
    where
        C: Compiler<Representation = ComputeKernel, CompilationOptions = CompilationOptions>,
    {
        compiler.compile(define_kernel(kernel)?, &self.options)
    }
}

/// What the targets have in common.
fn hardware(plane: u32) -> HardwareProperties {
    HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: plane,
        plane_size_max: plane,
        max_bindings: 1024,
        max_shared_memory_size: 32 << 10,
        max_cube_count: (u32::MAX, u16::MAX.into(), u16::MAX.into()),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    }
}

fn properties(hardware: HardwareProperties) -> DeviceProperties {
    DeviceProperties::new(
        Default::default(),
        MemoryDeviceProperties::new(64 << 30, 512),
        hardware,
        TimingMethod::Device,
        DeviceIdentity {
            name: "described".to_owned(),
            fingerprint: "described".to_owned(),
            physical: None,
        },
    )
}
