//! NVRTC without a device or a driver: sources in, registers and spills out.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cudarc::nvrtc::result;
use libloading::Library;

/// What ptxas says about one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: usize,
    /// Bytes of shared memory that are fixed at compile time.
    pub shared_memory: usize,
    /// Bytes that a thread writes and reads because registers ran out.
    pub spills: usize,
}

/// A CUDA toolkit's folder, with NVRTC loaded from it.
pub struct Nvrtc {
    include: PathBuf,
    // Kept open, so that the same libraries answer when they are asked for by name.
    _libraries: Vec<Library>,
}

impl Nvrtc {
    /// The toolkit in `$CUDA_PATH`, or where `.ci/cuda-toolkit` puts one, or in its usual place.
    pub fn get() -> Result<&'static Self, String> {
        static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
        NVRTC.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self, String> {
        let folders = match std::env::var_os("CUDA_PATH") {
            Some(path) => vec![PathBuf::from(path)],
            None => vec![
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda-toolkit/nvidia/cu13"),
                PathBuf::from("/usr/local/cuda"),
            ],
        };
        let missing = || {
            let looked: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
            format!(
                "the feature `lowering` needs NVRTC 13 and CUDA's headers, and {} has none: run .ci/cuda-toolkit, or name \
                 a toolkit's folder in CUDA_PATH",
                looked.join(" and ")
            )
        };
        let (folder, libraries) = folders
            .iter()
            .find_map(|folder| Some((folder, shared_libraries(folder)?)))
            .ok_or_else(missing)?;
        // The compiler asks for its built-ins by name, and cudarc for the compiler: both find what is loaded already.
        let libraries = libraries
            .iter()
            .map(|library| {
                // SAFETY: NVIDIA's libraries do nothing when loaded but set up themselves.
                unsafe { Library::new(library) }.map_err(|error| error.to_string())
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            include: folder.join("include"),
            _libraries: libraries,
        })
    }

    /// Compiles down to machine code for `architecture`, with the options that CubeCL gives.
    ///
    /// The error is the compiler's log.
    pub fn compile(&self, source: &str, architecture: &str) -> Result<Usage, String> {
        let include = self.include.display();
        let options = [
            format!("--gpu-architecture={architecture}"),
            format!("--include-path={include}"),
            format!("--include-path={include}/cccl"),
            "-lineinfo".to_owned(),
            "--ptxas-options=-v".to_owned(),
        ];
        let source = CString::new(source).map_err(|error| error.to_string())?;
        let program = result::create_program(&source, None).map_err(|error| error.to_string())?;
        // SAFETY: the program lives until it is destroyed below, and the log is a C string that NVRTC ended with a zero.
        let (compiled, log) = unsafe {
            let compiled = result::compile_program(program, &options);
            let log = result::get_program_log(program)
                .map(|log| CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned());
            let destroyed = result::destroy_program(program);
            (compiled.and(destroyed), log.map_err(|error| error.to_string())?)
        };
        match compiled {
            Ok(()) => Usage::parse(&log).ok_or_else(|| format!("no usage in ptxas's words: {log}")),
            Err(error) => Err(format!("{error}\n{log}")),
        }
    }
}

/// NVRTC's built-ins and NVRTC, in the order in which they load.
fn shared_libraries(toolkit: &Path) -> Option<[PathBuf; 2]> {
    ["lib", "lib64"].iter().find_map(|lib| {
        let folder = toolkit.join(lib);
        let find = |prefix: &str| {
            std::fs::read_dir(&folder)
                .ok()?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| {
                    path.file_name()
                        .and_then(|name| name.to_str())
                        .is_some_and(|name| name.starts_with(prefix))
                })
        };
        Some([find("libnvrtc-builtins.so.13")?, find("libnvrtc.so.13")?])
    })
}

impl Usage {
    /// Reads ptxas's `-v` lines: `… 8 bytes spill stores, 4 bytes spill loads` and `Used 40 registers, …, 256 bytes smem`.
    fn parse(log: &str) -> Option<Self> {
        let words: Vec<&str> = log
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| !word.is_empty())
            .collect();
        // The number so many words before a phrase.
        let before = |phrase: &[&str], distance: usize| {
            let at = words.windows(phrase.len()).position(|window| window == phrase)?;
            words.get(at.checked_sub(distance)?)?.parse::<usize>().ok()
        };
        Some(Self {
            registers: before(&["registers"], 1)?,
            shared_memory: before(&["bytes", "smem"], 1).unwrap_or(0),
            spills: before(&["bytes", "spill", "stores"], 1)? + before(&["bytes", "spill", "loads"], 1)?,
        })
    }
}
