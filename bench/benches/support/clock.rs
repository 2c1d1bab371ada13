//! Wall time, or the processor time of this process where the machine is busy.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What the environment variable `SPILLWAY_BENCH_CLOCK` chooses: `wall` (default) or `cpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// What a user waits.
    Wall,
    /// Time that the threads of this process computed, all added up: on one thread it is what the call would take on a quiet
    /// machine, but for caches and memory that neighbours take.
    Cpu,
}

impl Clock {
    /// The chosen clock.
    ///
    /// # Errors
    /// The variable's value when it is neither.
    pub fn from_env() -> Result<Self, String> {
        match std::env::var("SPILLWAY_BENCH_CLOCK").as_deref() {
            Err(_) | Ok("wall" | "") => Ok(Self::Wall),
            Ok("cpu") if cfg!(unix) => Ok(Self::Cpu),
            Ok("cpu") => Err("SPILLWAY_BENCH_CLOCK=cpu is there on Unix only".to_owned()),
            Ok(other) => Err(format!(
                "SPILLWAY_BENCH_CLOCK needs to be wall or cpu, found {other}"
            )),
        }
    }

    /// The clock's name in reports: `wall` or `cpu`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Cpu => "cpu",
        }
    }

    /// Time since some fixed moment.
    pub fn now(self) -> Duration {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        match self {
            Self::Wall => BEGIN.get_or_init(Instant::now).elapsed(),
            Self::Cpu => processor_time(),
        }
    }
}

#[cfg(unix)]
fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of this frame; a clock that does not exist would leave it at 0.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(not(unix))]
fn processor_time() -> Duration {
    unreachable!("from_env refuses this clock")
}
