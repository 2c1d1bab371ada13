//! What the system tells about this process.

/// Processor time so far, all threads together, in the 10 ms steps that Linux counts in.
pub(crate) fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may hold blanks; it ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / 100.0)
}

/// Largest resident memory so far.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    status("VmHWM:")
}

/// Resident memory of this process now, in bytes; `None` where the system does not tell.
pub(crate) fn resident_bytes() -> Option<u64> {
    status("VmRSS:")
}

/// A field that is counted in KiB.
fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
