//! The progress bar of a training, and stopping it.

use super::record::evaluation_sentence;
use super::task_result;
use crate::context::Context;
use crate::progress;
use crate::stop::Stop;
use spillway_models::train::log::{Event, Seconds, StepEvent};
use spillway_models::train::{Observer, Run};
use std::ops::ControlFlow;

/// Share that a new step's value has in the mean that is shown.
const SHARE: f64 = 0.1;

/// Draws the bar, and asks the run to stop when the user does.
pub struct Progress<'a> {
    bar: progress::Progress,
    stop: &'a Stop,
    context: &'a Context,
    loss: Option<f64>,
    norm: f64,
    seconds: Seconds,
}

impl<'a> Progress<'a> {
    /// A bar at the run's step.
    pub fn new(run: &Run, stop: &'a Stop, context: &'a Context) -> Self {
        let (trainer, config) = (run.trainer(), run.trainer().config());
        let (done, all) = (trainer.steps_done(), config.steps);
        let tokens = config.tokens_per_step();
        let bar = context.progress_from(done * tokens, all * tokens, "tokens");
        Self {
            bar,
            stop,
            context,
            loss: None,
            norm: 0.0,
            seconds: Seconds::default(),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn step(&mut self, report: &StepEvent) {
        self.bar.set_position(report.tokens);
        self.loss = Some(match self.loss {
            Some(loss) => loss + SHARE * (report.loss - loss),
            None => report.loss,
        });
        self.norm = report.gradient_norm;
        self.seconds.add(&report.seconds);
        self.bar.set_message(format!(
            "step {}  loss {:.3}  |g| {:.2}  {}",
            report.step,
            self.loss.unwrap_or(report.loss),
            self.norm,
            shares(&self.seconds)
        ));
        self.stop.count(1);
    }
}

/// Shares of the time, as `fwd 40 bwd 50 opt 8 data 2 %`.
fn shares(seconds: &Seconds) -> String {
    let share = |part: f64| 100.0 * part / seconds.sum().max(f64::MIN_POSITIVE);
    format!(
        "fwd {:.0} bwd {:.0} opt {:.0} data {:.0} %",
        share(seconds.forward),
        share(seconds.backward),
        share(seconds.optimizer),
        share(seconds.data)
    )
}

impl Observer for Progress<'_> {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Step(event) => self.step(event),
            Event::Evaluation(event) => {
                let text = evaluation_sentence(event.step, &event.report);
                self.bar.suspend(|| self.context.remark(text));
            }
            Event::Task(event) => {
                let text = task_result::sentence(event.step, &event.report);
                self.bar.suspend(|| self.context.remark(text));
            }
            _ => {}
        }
        self.stop.flow()
    }

    fn evaluating(&mut self, step: u64) {
        self.bar.set_message(format!("step {step}  evaluating"));
    }
}
