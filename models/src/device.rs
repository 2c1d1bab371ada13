//! Where a model runs: the processor, or a device that the program was built for, by name.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::str::FromStr;

use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::tensor::DeviceType;
use thiserror::Error;

/// Kinds of devices that models run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// The machine's processor (CPU).
    #[default]
    Cpu,
    /// A graphics processor through Vulkan, Metal, DirectX or WebGPU.
    Wgpu,
    /// An NVIDIA graphics processor.
    Cuda,
}

/// A device by its kind and its number among those of that kind: `cpu`, `wgpu`, `wgpu:1`, `cuda:0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceChoice {
    /// Kind of the device.
    pub runtime: Runtime,
    /// Index of the device among those of its kind, from 0.
    pub index: usize,
}

/// A device that there is.
#[derive(Clone, Debug)]
pub struct FoundDevice {
    /// Kind and number of the device, as `--device` takes them.
    pub choice: DeviceChoice,
    /// What the device calls itself.
    pub name: String,
    device: Device,
}

/// Why a device cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// It is none of the names.
    #[error("expected cpu, wgpu, wgpu:N, cuda or cuda:N, found {0:?}")]
    Name(String),
    /// The program was built without this kind.
    #[error("built without {runtime}: build it with --features {runtime}")]
    NotBuilt {
        /// Kind of the device that was asked for.
        runtime: Runtime,
    },
    /// The machine has none of this number.
    #[error("expected one of {found}, found {choice}")]
    Absent {
        /// What was asked for.
        choice: DeviceChoice,
        /// The devices of this kind that there are, in words.
        found: String,
    },
}

impl Runtime {
    /// Every kind of device, built in or not.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Wgpu, Self::Cuda];

    /// Whether the program was built for it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Cuda => cfg!(feature = "cuda"),
        }
    }

    /// The devices of this kind; none where the program was built without it, or its driver is missing.
    pub fn found(self) -> Vec<FoundDevice> {
        // A driver that is missing is a panic in some of the layers below.
        let devices = panic::catch_unwind(AssertUnwindSafe(|| self.enumerate())).unwrap_or_default();
        let found = |(index, device): (usize, Device)| FoundDevice {
            choice: DeviceChoice { runtime: self, index },
            name: self.name_of(&device),
            device,
        };
        devices.into_iter().enumerate().map(found).collect()
    }

    fn enumerate(self) -> Vec<Device> {
        match self {
            Self::Cpu => vec![Device::flex()],
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::enumerate(DeviceType::Wgpu).into_iter().collect(),
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::enumerate(DeviceType::Cuda).into_iter().collect(),
            #[allow(unreachable_patterns, reason = "every kind may be built in")]
            _ => Vec::new(),
        }
    }

    fn name_of(self, _device: &Device) -> String {
        match self {
            Self::Cpu => "the processor".into(),
            #[cfg(any(feature = "wgpu", feature = "cuda"))]
            _ => {
                let identity = panic::catch_unwind(AssertUnwindSafe(|| _device.identity()));
                identity
                    .ok()
                    .flatten()
                    .map_or_else(|| format!("{_device:?}"), |identity| identity.name)
            }
            #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
            _ => String::new(),
        }
    }
}

impl DeviceChoice {
    /// The device.
    ///
    /// # Errors
    /// [`DeviceError::NotBuilt`], [`DeviceError::Absent`].
    pub fn open(self) -> Result<Device, DeviceError> {
        if !self.runtime.is_built() {
            let runtime = self.runtime;
            return Err(DeviceError::NotBuilt { runtime });
        }
        let found = self.runtime.found();
        match found.iter().find(|device| device.choice == self) {
            Some(device) => Ok(device.device.clone()),
            None => {
                let names: Vec<String> = found
                    .iter()
                    .map(|device| format!("{} ({})", device.choice, device.name))
                    .collect();
                Err(DeviceError::Absent {
                    choice: self,
                    found: match names.is_empty() {
                        true => "the devices of this machine, which has none of this kind".into(),
                        false => names.join(", "),
                    },
                })
            }
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.runtime {
            Runtime::Cpu => self.runtime.fmt(f),
            runtime => write!(f, "{runtime}:{}", self.index),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let wrong = || DeviceError::Name(text.chars().take(40).collect());
        let (name, index) = match text.split_once(':') {
            None => (text, 0),
            Some((name, index)) => (name, index.parse().map_err(|_| wrong())?),
        };
        let runtime = Runtime::ALL
            .into_iter()
            .find(|runtime| runtime.to_string() == name);
        match runtime {
            Some(Runtime::Cpu) if index > 0 || text.contains(':') => Err(wrong()),
            Some(runtime) => Ok(Self { runtime, index }),
            None => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["cpu", "wgpu:0", "wgpu:3", "cuda:1"] {
            assert_eq!(text.parse::<DeviceChoice>().expect("a name").to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().expect("a name").index, 0);
        for text in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "wgpu:x", "CUDA"] {
            assert_eq!(text.parse::<DeviceChoice>(), Err(DeviceError::Name(text.into())));
        }
    }

    #[test]
    fn what_is_not_built_in_or_not_there_says_so() {
        assert!(DeviceChoice::default().open().is_ok());
        for runtime in [Runtime::Wgpu, Runtime::Cuda] {
            let choice = DeviceChoice { runtime, index: 1000 };
            let message = choice.open().expect_err("no such device").to_string();
            let expected = match runtime.is_built() {
                true => format!("found {runtime}:1000"),
                false => format!("--features {runtime}"),
            };
            assert!(message.contains(&expected), "{message}");
        }
    }
}
