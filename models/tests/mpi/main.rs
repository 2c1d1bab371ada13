//! The checks of `tests/parallel` on processes under MPI, one after another; every rank makes each of them.
//!
//! ```text
//! mpirun -n 3 target/debug/deps/mpi-…            # .ci/mpi does so with 1, 2, 3 and 5 ranks
//! ```
//!
//! It is a program of its own, because MPI is started once in a process. By itself it is one rank.

#[path = "../parallel/checks.rs"]
mod checks;
#[path = "../parallel/definition.rs"]
mod definition;
#[expect(dead_code, reason = "what takes no ranks is checked in tests/parallel alone")]
#[path = "../parallel/gradients.rs"]
mod gradients;
#[path = "../parallel/kinds.rs"]
mod kinds;
#[path = "../parallel/sharding.rs"]
mod sharding;
#[path = "../parallel/trainings.rs"]
mod trainings;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spillway_models::parallel::Communicator;
use spillway_models::parallel::mpi::Mpi;

const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mpi = match Mpi::join(TIMEOUT) {
        Ok(mpi) => Arc::new(mpi),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let ranks: Arc<dyn Communicator> = Arc::clone(&mpi) as Arc<dyn Communicator>;
    let check = |name: &str, check: &dyn Fn()| {
        let begin = Instant::now();
        check();
        if ranks.rank() == 0 {
            let seconds = begin.elapsed().as_secs_f64();
            println!("{} ranks: {name}: ok, {seconds:.1} s", ranks.size());
        }
    };
    let each = ranks.as_ref();
    // A check that fails panics; the launcher then ends the other ranks.
    check("messages", &|| checks::messages(each));
    check("collectives", &|| checks::collectives(each));
    check("sums", &|| checks::sums(each));
    check("parts of sums", &|| sharding::parts_of_sums(each));
    check("scans", &|| checks::scans(each));
    check("rings", &|| checks::rings(each));
    check("every layout in a ring", &|| checks::every_layout_in_a_ring(each));
    check("recurrences", &|| checks::recurrences(each));
    check("gradients of recurrences", &|| gradients::recurrences(each));
    check("gradients of models", &|| gradients::models(&ranks));
    check("gradients of every layout", &|| gradients::every_layout(&ranks));
    check("diagnoses", &|| checks::diagnoses(each));
    check("moments in parts", &|| sharding::steps(&ranks));
    check("trainings", &|| trainings::trainings(&ranks));
    match mpi.leave() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
