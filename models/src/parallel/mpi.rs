//! Ranks that are processes under MPI.
//!
//! One thread of each process speaks to MPI, and nobody else: it sends what the others have left for it, takes in whatever
//! comes, and sends signs of life when there is nothing else to say. So a wait is a wait for a message in memory, a process
//! that computes for an hour is not taken for lost, and one that is killed or stopped is.
//!
//! ```text
//! threads that compute ── send ──► outbox ──► ┌────────────┐ ──► MPI
//!                      ◄─ receive ─ inbox ◄── │ one thread │ ◄── MPI
//!                                             └────────────┘
//! ```
//!
//! A message goes out in pieces of at most 16 MiB, because MPI counts in 32 bits. The thread looks for messages every
//! half millisecond while nobody waits for one, and every twentieth of one while somebody does: that much may be added to a
//! message's time.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use ::mpi::environment::{Threading, Universe, initialize_with_threading};
use ::mpi::ffi;
use ::mpi::traits::{AsRaw, Communicator as _, Equivalence, Source};

use super::collectives::barrier;
use super::inbox::Inbox;
use super::{Communicator, ParallelError, Tag};

/// Bytes that go out at a time.
const PIECE: usize = 1 << 24;
/// Bytes before a message: its length.
const HEAD: usize = 8;
/// The longest pause between two looks at MPI.
const LONGEST_PAUSE: Duration = Duration::from_micros(500);
/// The longest pause between two looks at MPI while a thread waits for a message.
const AWAITED_PAUSE: Duration = Duration::from_micros(50);
const SHORTEST_PAUSE: Duration = Duration::from_micros(10);

const ALIVE: u16 = Tag::RESERVED;
const FAILURE: u16 = Tag::RESERVED + 1;
const END: u16 = Tag::RESERVED + 2;

/// This process as a rank: one of the processes that `mpirun` or the like has started.
#[derive(Debug)]
pub struct Mpi {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The thread, to be woken.
    speaker: Thread,
}

/// What the threads of a process and the one that speaks to MPI have in common.
#[derive(Debug, Default)]
struct Shared {
    outbox: Mutex<VecDeque<Outgoing>>,
    finish: AtomicBool,
    failed: AtomicBool,
}

#[derive(Debug)]
struct Outgoing {
    to: usize,
    tag: u16,
    message: Vec<u8>,
}

impl Mpi {
    /// Joins the ranks with which this process was started; once in a process.
    ///
    /// # Errors
    /// [`ParallelError::Mpi`] when MPI has been started before or cannot be.
    pub fn join(timeout: Duration) -> Result<Self, ParallelError> {
        let shared = Arc::new(Shared::default());
        let (sender, receiver) = mpsc::sync_channel(1);
        let theirs = Arc::clone(&shared);
        let speak = move || match Speaker::start(timeout, theirs) {
            Ok(mut speaker) => {
                // The other end waits for this.
                let _ = sender.send(Ok(Arc::clone(&speaker.inbox)));
                speaker.speak();
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let failed = |reason: String| ParallelError::Mpi {
            call: "starting its thread",
            reason,
        };
        let thread = std::thread::Builder::new()
            .name("mpi".into())
            .spawn(speak)
            .map_err(|error| failed(error.to_string()))?;
        let inbox = receiver.recv().map_err(|error| failed(error.to_string()))??;
        Ok(Self {
            inbox,
            shared,
            speaker: thread.thread().clone(),
            thread: Mutex::new(Some(thread)),
        })
    }

    fn push(&self, to: usize, tag: u16, message: Vec<u8>) {
        let mut outbox = self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.push_back(Outgoing { to, tag, message });
        drop(outbox);
        self.speaker.unpark();
    }

    /// Waits for all ranks, and leaves MPI. After an error, or where this is not called, MPI ends the other ranks as well.
    ///
    /// # Errors
    /// As [`Communicator::receive`].
    pub fn leave(&self) -> Result<(), ParallelError> {
        barrier(self)?;
        self.shared.finish.store(true, Ordering::Release);
        self.join_thread();
        Ok(())
    }

    fn join_thread(&self) {
        self.speaker.unpark();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // It has no result; if it panicked, the other ranks learn of it from the launcher.
            let _ = thread.join();
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.inbox.rank()
    }

    fn size(&self) -> usize {
        self.inbox.size()
    }

    fn timeout(&self) -> Duration {
        self.inbox.timeout()
    }

    fn send(&self, to: usize, tag: Tag, message: Vec<u8>) -> Result<(), ParallelError> {
        self.inbox.check(to)?;
        match to == self.rank() {
            true => self.inbox.put(to, tag.number, message),
            false => self.push(to, tag.number, message),
        }
        Ok(())
    }

    fn receive(&self, from: usize, tag: Tag) -> Result<Vec<u8>, ParallelError> {
        self.inbox.take(from, tag)
    }

    fn poll(&self, tag: Tag, patience: Duration) -> Result<Option<(usize, Vec<u8>)>, ParallelError> {
        self.inbox.poll(tag, patience)
    }

    fn fail(&self, reason: &str) {
        if self.shared.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        for to in (0..self.size()).filter(|to| *to != self.rank()) {
            self.push(to, FAILURE, reason.as_bytes().to_vec());
        }
    }
}

/// The one that speaks to MPI, on a thread of its own.
struct Speaker {
    universe: Universe,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    sending: Vec<Sending>,
    /// Per rank and tag, a message of which not all has come.
    partial: Vec<Partial>,
    beat: Instant,
    every: Duration,
}

/// A piece under way. The request refers to the bytes, which must neither move nor go before it is complete.
struct Sending {
    request: ffi::MPI_Request,
    _message: Arc<Vec<u8>>,
}

struct Partial {
    from: usize,
    tag: u16,
    expected: usize,
    bytes: Vec<u8>,
}

impl Speaker {
    fn start(timeout: Duration, shared: Arc<Shared>) -> Result<Self, ParallelError> {
        let started = initialize_with_threading(Threading::Funneled);
        let (universe, _) = started.ok_or_else(|| ParallelError::Mpi {
            call: "MPI_Init_thread",
            reason: "MPI has been started before in this process".into(),
        })?;
        let world = universe.world();
        // Ranks are not negative.
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        Ok(Self {
            universe,
            inbox: Arc::new(Inbox::new(rank, size, timeout, true)),
            shared,
            sending: Vec::new(),
            partial: Vec::new(),
            beat: Instant::now(),
            every: timeout / 8,
        })
    }

    /// Sends, takes in and gives signs of life, until [`Mpi::leave`].
    fn speak(&mut self) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let finish = self.shared.finish.load(Ordering::Acquire);
            let busy = self.send_all() | self.take_in();
            self.complete();
            if finish && !busy {
                break;
            }
            if self.beat.elapsed() >= self.every {
                self.tell_others(ALIVE);
            }
            pause = match busy {
                true => SHORTEST_PAUSE,
                false if self.inbox.is_awaited() => (2 * pause).min(AWAITED_PAUSE),
                false => (2 * pause).min(LONGEST_PAUSE),
            };
            if !busy {
                std::thread::park_timeout(pause);
            }
        }
        self.say_goodbye();
    }

    /// Tells the others that this rank ends; waits, at most the timeout, until they have too and all is sent, as leaving MPI needs.
    fn say_goodbye(&mut self) {
        self.tell_others(END);
        let begin = Instant::now();
        while !(self.inbox.all_ended() && self.sending.is_empty()) && begin.elapsed() < self.inbox.timeout() {
            if !self.take_in() {
                std::thread::sleep(SHORTEST_PAUSE);
            }
            self.complete();
        }
    }

    fn tell_others(&mut self, tag: u16) {
        self.beat = Instant::now();
        let (rank, size) = (self.inbox.rank(), self.inbox.size());
        for to in (0..size).filter(|to| *to != rank) {
            self.begin(Outgoing {
                to,
                tag,
                message: Vec::new(),
            });
        }
    }

    fn send_all(&mut self) -> bool {
        let mut busy = false;
        loop {
            let mut outbox = self.shared.outbox.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(next) = outbox.pop_front() else {
                return busy;
            };
            drop(outbox);
            busy = true;
            self.begin(next);
        }
    }

    /// Sends the length and the first bytes, then the rest piece by piece.
    fn begin(&mut self, outgoing: Outgoing) {
        let length = outgoing.message.len() as u64;
        let mut message = outgoing.message;
        message.splice(0..0, length.to_le_bytes());
        let message = Arc::new(message);
        for piece in message.chunks(PIECE) {
            let mut request = std::mem::MaybeUninit::uninit();
            // SAFETY: the bytes are kept in `sending` until the request is complete, at one place in memory, and are not
            // written; a piece has at most 2^24 of them, which a `c_int` holds. This thread alone calls MPI.
            let request = unsafe {
                ffi::MPI_Isend(
                    piece.as_ptr().cast(),
                    piece.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    outgoing.to as c_int,
                    c_int::from(outgoing.tag),
                    self.universe.world().as_raw(),
                    request.as_mut_ptr(),
                );
                request.assume_init()
            };
            self.sending.push(Sending {
                request,
                _message: Arc::clone(&message),
            });
        }
    }

    /// Lets go of what has been sent.
    fn complete(&mut self) {
        self.sending.retain_mut(|sending| {
            let mut done: c_int = 0;
            // SAFETY: the request is one that `MPI_Isend` gave and that has not been completed. This thread alone calls MPI.
            unsafe { ffi::MPI_Test(&mut sending.request, &mut done, ffi::RSMPI_STATUS_IGNORE) };
            done == 0
        });
    }

    /// Takes in whatever has come; whether there was anything.
    fn take_in(&mut self) -> bool {
        let mut busy = false;
        let world = self.universe.world();
        while let Some((message, status)) = world.any_process().immediate_matched_probe() {
            busy = true;
            let (from, tag) = (status.source_rank() as usize, status.tag() as u16);
            let mut piece = vec![0u8; status.count(u8::equivalent_datatype()) as usize];
            message.matched_receive_into(&mut piece[..]);
            self.piece(from, tag, piece);
        }
        busy
    }

    fn piece(&mut self, from: usize, tag: u16, mut piece: Vec<u8>) {
        let begun = self
            .partial
            .iter()
            .position(|partial| (partial.from, partial.tag) == (from, tag));
        let mut partial = match begun {
            Some(index) => {
                let mut partial = self.partial.swap_remove(index);
                partial.bytes.append(&mut piece);
                partial
            }
            None => {
                let mut head = [0; HEAD];
                let bytes = piece.split_off(HEAD.min(piece.len()));
                head[..piece.len()].copy_from_slice(&piece);
                Partial {
                    from,
                    tag,
                    expected: u64::from_le_bytes(head) as usize,
                    bytes,
                }
            }
        };
        match partial.bytes.len() < partial.expected {
            true => self.partial.push(partial),
            false => self.whole(from, tag, std::mem::take(&mut partial.bytes)),
        }
    }

    fn whole(&self, from: usize, tag: u16, message: Vec<u8>) {
        match tag {
            ALIVE => self.inbox.heard(from),
            END => self.inbox.end(from),
            FAILURE => self.inbox.fail(
                from,
                ParallelError::Failed {
                    rank: from,
                    reason: String::from_utf8_lossy(&message).into_owned(),
                },
            ),
            _ => self.inbox.put(from, tag, message),
        }
    }
}
