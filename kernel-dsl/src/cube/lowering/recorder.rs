//! A device that compiles what is launched on it, and runs nothing.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cubecl::client::Client;
use cubecl::{CubeCount, CubeKernel};
use cubecl_common::bytes::Bytes;
use cubecl_common::device::{DeviceId, DeviceService, ServerUtilitiesHandle, ServiceId};
use cubecl_common::profile::ProfileDuration;
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::future::DynFut;
use cubecl_environment::stream::StreamId;
use cubecl_server::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_server::dry_run::LaunchMode;
use cubecl_server::id::KernelId;
use cubecl_server::logging::ServerLogger;
use cubecl_server::memory_management::{ManagedMemoryHandle, MemoryAllocationMode, StreamMemoryReport};
use cubecl_server::server::{
    BufferBinding, CopyDescriptor, IoError, KernelArguments, ProfileError, ProfilingToken, Server,
    ServerCommunication, ServerError, ServerStorage, ServerUtilities,
};
use cubecl_server::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};

use super::target::LoweringTarget;

/// One kernel in one variant, as a target's compiler gets it.
#[derive(Clone, Debug)]
pub struct LoweredKernel {
    /// The function that it was written as.
    pub name: String,
    /// Units of a cube along the three axes.
    pub cube_dim: [u32; 3],
    /// The source, or why there is none.
    pub source: Result<KernelSource, String>,
}

/// Source text of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSource {
    /// The whole translation unit.
    pub text: String,
    /// Bytes of shared memory that a cube takes.
    pub shared_memory: usize,
}

/// A client of a target, and the kernels that were launched on it.
pub struct Recorder {
    client: Client,
    recording: Arc<Mutex<Recording>>,
}

#[derive(Default)]
struct Recording {
    seen: HashSet<KernelId>,
    kernels: Vec<LoweredKernel>,
}

fn lock(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    // What is recorded is whole at any time, so that a panic elsewhere does not spoil it.
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LoweringTarget {
    /// A new client of this target, whose launches are recorded.
    pub fn recorder(&self) -> Recorder {
        // Recorders must not share a device; a process that makes 65536 of them begins again with the first's.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let device = DeviceId::new(0, NEXT.fetch_add(1, Ordering::Relaxed));
        let recording = Arc::new(Mutex::new(Recording::default()));
        let server = RecordingServer::new(self.clone(), Arc::clone(&recording), device);
        Recorder {
            client: Client::init(device, server),
            recording,
        }
    }
}

impl Recorder {
    /// The client to launch on.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The kernels that were launched since the last call, each variant only where it first was.
    pub fn take(&self) -> Vec<LoweredKernel> {
        // Waits for the thread that the server runs on; there is no work that could have failed.
        let _ = cubecl::future::block_on(self.client.sync());
        std::mem::take(&mut lock(&self.recording).kernels)
    }
}

struct RecordingServer {
    target: LoweringTarget,
    recording: Arc<Mutex<Recording>>,
    utilities: Arc<ServerUtilities>,
}

impl RecordingServer {
    fn new(target: LoweringTarget, recording: Arc<Mutex<Recording>>, device: DeviceId) -> Self {
        let alignment = target.properties().memory.alignment as usize;
        let (utilities, _captures) = ServerUtilities::init(
            ServiceId::of::<Self>(device),
            "recording",
            target.properties().clone(),
            target.target_properties().clone(),
            Arc::new(ServerLogger::default()),
            ContiguousMemoryLayoutPolicy::new(alignment),
        );
        Self {
            target,
            recording,
            utilities: Arc::new(utilities),
        }
    }

    fn lower(&self, kernel: &dyn CubeKernel) -> Result<KernelSource, String> {
        // The compiler panics at what it does not know; the kernel's name is worth more than the stack.
        let lowered = catch_unwind(AssertUnwindSafe(|| self.target.lower(kernel)));
        match lowered {
            Ok(Ok(lowered)) => Ok(KernelSource {
                shared_memory: lowered.shared_memory_size,
                text: lowered.source,
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => {
                let message = panic.downcast_ref::<String>().cloned();
                Err(message.unwrap_or_else(|| "CubeCL's compiler panicked".to_owned()))
            }
        }
    }
}

impl std::fmt::Debug for RecordingServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordingServer")
            .field("target", &self.target.architecture())
            .finish_non_exhaustive()
    }
}

impl DeviceService for RecordingServer {
    /// CubeCL calls this for a device of which it has no server; ours are all made with one.
    fn init(device: DeviceId) -> Self {
        Self::new(LoweringTarget::h100(), Arc::default(), device)
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        Arc::clone(&self.utilities) as ServerUtilitiesHandle
    }
}

impl ServerCommunication for RecordingServer {}

impl Server for RecordingServer {
    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        Arc::clone(&self.utilities.logger)
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        Arc::clone(&self.utilities)
    }

    fn read(
        &mut self,
        descriptors: Vec<CopyDescriptor>,
        _: StreamId,
    ) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let zeros = |copy: &CopyDescriptor| {
            let len = copy.shape.iter().product::<usize>() * copy.elem_size;
            Bytes::from_bytes_vec(vec![0; len])
        };
        let zeros = descriptors.iter().map(zeros).collect();
        Box::pin(async move { Ok(zeros) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: Vec<BufferBinding>, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn check(&mut self, _: Vec<BufferBinding>, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        _: CubeCount,
        _: KernelArguments,
        _: StreamId,
        _: LaunchMode,
    ) {
        let id = kernel.id();
        let cube_dim = id.cube_dim;
        if !lock(&self.recording).seen.insert(id) {
            return;
        }
        let source = self.lower(&*kernel);
        let path = kernel.name();
        // `crate::module::function::Function<types>`: the module is the function's name.
        let path = path.split('<').next().unwrap_or(path);
        let name = path.rsplit("::").nth(1).unwrap_or(path).to_owned();
        lock(&self.recording).kernels.push(LoweredKernel {
            name,
            cube_dim: [cube_dim.x, cube_dim.y, cube_dim.z],
            source,
        });
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_report(&mut self, _: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Ok(ProfilingToken { id: 0 })
    }

    fn end_profile(&mut self, _: StreamId, _: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        Err(ProfileError::NotRegistered {
            backtrace: BackTrace::capture(),
        })
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

/// Buffers of a recorder have a size and nothing else.
struct NoStorage;

impl ServerStorage for RecordingServer {
    type Storage = NoStorage;

    fn get_resource(&mut self, _: BufferBinding, _: StreamId) -> Result<ManagedResource<()>, ServerError> {
        Err(unsupported().into())
    }
}

impl ComputeStorage for NoStorage {
    type Resource = ();

    fn alignment(&self) -> usize {
        1
    }

    fn get(&mut self, _: &StorageHandle) -> Result<(), IoError> {
        Err(unsupported())
    }

    fn alloc(&mut self, _: u64) -> Result<StorageHandle, IoError> {
        Err(unsupported())
    }

    fn dealloc(&mut self, _: StorageId) {}

    fn flush(&mut self) {}

    fn bytes_allocated(&self) -> u64 {
        0
    }
}

fn unsupported() -> IoError {
    IoError::UnsupportedIoOperation {
        backtrace: BackTrace::capture(),
    }
}
