//! Whether this process is one of several that a launcher such as `mpirun` or `srun` has started.

/// Variables with the number of ranks: Open MPI's, that of MPICH and Slurm, MVAPICH's.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"];
/// Variables with the number of ranks on this machine.
const LOCAL_SIZES: [&str; 3] = [
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_LOCAL_SIZE",
];

/// The number of ranks that were started together; 1 for a process by itself.
pub fn size() -> usize {
    largest(&SIZES).or_else(of_slurm).unwrap_or(1).max(1)
}

/// Number of the ranks that are on this machine, as far as the launcher says; otherwise 1.
pub fn local_size() -> usize {
    largest(&LOCAL_SIZES).unwrap_or(1).clamp(1, size())
}

/// A step of Slurm whose ranks know each other by PMIx.
fn of_slurm() -> Option<usize> {
    std::env::var_os("PMIX_RANK")?;
    number("SLURM_STEP_NUM_TASKS")
}

fn largest(names: &[&str]) -> Option<usize> {
    names.iter().filter_map(|name| number(name)).max()
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}
