//! `report.html`: the pictures, and what to look for in each.

use super::figures;
use super::memory::{AVERAGED, Memory};
use super::report::{Report, SystemReport, difference, percent};
use super::spectrum::slowest;
use super::system::Named;
use crate::kit::format::{count, list, short};
use crate::kit::page::{self, Page, Row, heading, headings};
use crate::kit::picture::Figure;
use crate::kit::provenance::Provenance;
use maud::{Markup, html};
use spillway_ssm_core::state_space::hippo::Measure;

/// Files beside the page.
const FILES: [(&str, &str); 6] = [
    (
        "systems.json",
        "settings, eigenvalues, errors and differences of every system",
    ),
    (
        "functions.csv",
        "what the first numbers of a state weigh the past by",
    ),
    ("eigenvalues.csv", "every mode before and after sampling"),
    (
        "memory.csv",
        "what is remembered of every sample, at several moments",
    ),
    ("errors.csv", "error by age"),
    ("outputs.csv", "the output by its three views, and the kernel"),
];

/// The page of a report, as the content of `report.html`.
pub fn page(report: &Report, made: &Provenance) -> String {
    let names: Vec<String> = report
        .systems
        .iter()
        .map(|system| system.named.name().to_string())
        .collect();
    Page {
        title: format!("What a state of {} numbers remembers: {}", report.setting.states, list(&names)),
        facts: report.facts(),
        summary: summary(report),
        body: html! {
            (heading("The systems"))
            (systems(report))
            (heading("1. What each number of the state hears"))
            (hears())
            (figures_of(report.systems.iter().map(figures::functions)))
            (heading("2. How it turns and forgets"))
            (forgets())
            (figures_of(figures::spectra(report)))
            (heading("3. What the state remembers"))
            (remembers(report))
            (errors(report))
            (figures_of(memories(report).map(|memory| figures::memory(report, memory)).chain([figures::errors(report)])))
            (heading("4. One system, three ways to compute it"))
            (three_views())
            (figures_of(report.systems.iter().flat_map(|system| figures::views(report, system))))
            (heading("5. Another sampling rate"))
            (other_rates())
            (rates(report))
            (figures_of(report.systems.iter().filter_map(|system| figures::rate(report, system))))
            (heading("Sources"))
            (sources())
        },
        files: &FILES,
        specs: Vec::new(),
        made,
    }
    .render()
}

fn figures_of(figures: impl IntoIterator<Item = Figure>) -> Markup {
    page::figures(&figures.into_iter().collect::<Vec<_>>())
}

fn memories(report: &Report) -> impl Iterator<Item = &Memory> {
    report.systems.iter().flat_map(|system| &system.memories)
}

fn summary(report: &Report) -> Vec<String> {
    let states = report.setting.states;
    let mut sentences = vec![format!(
        "A linear system hears a signal sample by sample and keeps {states} numbers, x ← Ā x + B̄ u. Nothing else of the past is left, \
         however long it was. The choice of A and B decides what these numbers still say about it."
    )];
    let ranges: Vec<(usize, usize)> = super::memory::ranges(report.signal.samples.len()).collect();
    let best = |index: usize| {
        let errors = memories(report)
            .filter_map(|memory| Some((memory, memory.errors.get(index).copied().flatten()?)));
        errors.min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let found: Vec<String> = ranges
        .iter()
        .enumerate()
        .filter_map(|(index, (from, to))| {
            let (memory, error) = best(index)?;
            let ages = format!("{} to {} samples ago", count(*from as u64), count(*to as u64));
            Some(format!(
                "{ages}: {} (error {})",
                memory.name,
                percent(Some(error))
            ))
        })
        .collect();
    if memories(report).count() > 1 && !found.is_empty() {
        sentences.push(format!("Who remembers this signal best: {}.", found.join("; ")));
    } else if let Some(memory) = memories(report).next() {
        let errors = memory
            .errors
            .iter()
            .zip(&ranges)
            .filter_map(|(error, (from, to))| {
                Some(format!(
                    "{} from {} to {} samples ago",
                    percent(Some((*error)?)),
                    count(*from as u64),
                    count(*to as u64)
                ))
            });
        sentences.push(format!(
            "Error of what is remembered: {}.",
            list(&errors.collect::<Vec<_>>())
        ));
    }
    let worst = report
        .systems
        .iter()
        .map(|system| system.views.differences.recurrent_convolved)
        .fold(0.0, f64::max);
    sentences.push(format!(
        "Computed as a recurrence and as a convolution, the outputs differ by at most {} of their size: it is one system.",
        difference(worst)
    ));
    sentences
}

fn systems(report: &Report) -> Markup {
    let unit = 1.0 / report.setting.step;
    html! {
        p {
            "HiPPO asks two things: how much shall each age of the past count (the measure), and which N numbers then let one redraw the past best? The answer is a \
            pair of A and B. S4 starts its training from such a pair; S4D starts from simpler ones, whose numbers do not mix, and which come close to it."
        }
        dl {
            @for system in &report.systems {
                dt { code { (system.named.name()) } }
                dd {
                    (about(system.named)) ". Weighs " (system.named.weighs(unit)) "."
                    @if let Some(life) = slowest(&system.modes) { " Its slowest mode halves in " (short(life)) " samples." }
                }
            }
        }
    }
}

/// What a system is, in a sentence.
fn about(named: Named) -> &'static str {
    match named {
        Named::Measure(measure) => match measure {
            Measure::Legs => {
                "HiPPO-LegS: Legendre polynomials stretched over all of the past; with A/t in place of A the past is weighed alike"
            }
            Measure::LegsDiagonal => "what is left of HiPPO-LegS without the part that couples its modes",
            Measure::Legt => "HiPPO-LegT: Legendre polynomials on a sliding window",
            Measure::Lmu => "the Legendre Memory Unit: LegT on a window of half the length, scaled otherwise",
            Measure::Lagt { .. } => {
                "HiPPO-LagT: Laguerre functions, which reach further back the higher their number"
            }
            Measure::TiltedLagt { .. } => "LagT with a past that is weighed less the older it is",
            Measure::GeneralisedLagt { .. } => "generalised Laguerre functions",
            Measure::Fourier => "HiPPO-FouT: sines and cosines on a sliding window",
            Measure::Fourier2 => "FouT on a window of half the length",
            Measure::FourierDecay => {
                "FouT with half of its correction at the window's end, so that old samples echo"
            }
            Measure::FourierDiagonal => "sines and cosines that fade, without any window",
        },
        Named::Diagonal(name, _) => match name {
            "diag-lin" => "S4D-Lin: independent modes λ = −½ + iπn, a Fourier series that fades",
            "diag-inv" => "S4D-Inv: independent modes at the frequencies of LegS, by a formula",
            "diag-legs" => "S4D-LegS: LegS without the coupling of its modes",
            "diag-real" => {
                "S4D-Real: independent modes −1, −2, −3, … that only decay, like the channels of Mamba"
            }
            "diag-inv2" => "a variant of S4D-Inv in the code of S4",
            "diag-quad" => "frequencies that grow as squares, from the code of S4",
            _ => "random frequencies, for comparison",
        },
    }
}

fn hears() -> Markup {
    html! {
        p {
            "Every number of the state is a weighted sum of the past: a sample of age " i { "a" } " counts " i { "K" } sub { "n" } "(" i { "a" } ") times. \
            Each curve is one such weight, newest samples on the left."
        }
        p {
            b { "What to look for. " } "Where all curves have died away, nothing is heard any more. Where they swing fast, fine detail is kept; where they swing \
            slowly, only the rough shape. Measures with a window swing equally everywhere and then stop. " code { "legs" } " swings ever more slowly with \
            age: recent samples in detail, old ones in outline. The modes of S4D are waves that fade."
        }
        p {
            b { "Why it matters. " } "A recurrent language model has nothing but such sums of its past (Mamba and its kin also let the text steer the weights). \
            What no curve covers, no later layer can ask for."
        }
    }
}

fn forgets() -> Markup {
    html! {
        p {
            "In suitable coordinates a system falls apart into modes, each with one complex number λ. Its real part says how fast the mode forgets, its imaginary \
            part how fast it turns. A step of Δ from sample to sample makes a factor ā of it, e" sup { "Δλ" } " under the zero-order hold."
        }
        p {
            b { "What to look for. " } "Points close to the circle remember long. A smaller Δ moves every point towards 1: the same system, with a longer memory. \
            All points must lie within the circle, or the state grows without end on long texts."
        }
        p {
            b { "Why it matters. " } "The decays of Mamba, RWKV, RetNet and GLA are such factors. Half-lives alone tell the whole story only of modes that are \
            independent, as in S4D. In " code { "legs" } ", " code { "legt" } " and " code { "lagt" } " the numbers of the state pass what they hear on to each other; " code { "lagt" }
            " has a single λ, N times, and still keeps N different things."
        }
    }
}

fn remembers(report: &Report) -> Markup {
    let least = report
        .systems
        .iter()
        .any(|system| system.named.measure_with_basis().is_none());
    let legs = report
        .systems
        .iter()
        .any(|system| system.named == Named::Measure(Measure::Legs));
    html! {
        p {
            "The state is stopped at three moments and turned back into a signal, from its " (report.setting.states) " numbers alone: as the sum of the \
            measure's functions, each times its number."
            @if least {
                " Systems without a measure have no functions of their own; for them the picture shows the smallest past (the one of least energy) that would \
                have left the same state."
            }
            @if legs {
                " " code { "legs" } " appears twice: " code { "legs with A/t" } " is the original, whose window grows with time; " code { "legs" } " is the form of S4, \
                which fades at a constant rate."
            }
        }
        p {
            b { "What to look for. " } "With a window the recent past is followed closely and everything before it is gone at once. With the whole past the \
            picture of the same samples becomes coarser each time that it is taken, since the same " (report.setting.states) " numbers have to describe more. An \
            edge of the signal is rounded off everywhere: N numbers hold no jump exactly."
        }
        p {
            b { "Why it matters. " } "N numbers hold N facts about the past. A model may keep the recent ones sharp or all of them blurred, not both; this is the \
            price of a memory that does not grow with the text."
        }
    }
}

fn errors(report: &Report) -> Markup {
    let ranges = super::memory::ranges(report.signal.samples.len());
    let names = std::iter::once("system".to_string())
        .chain(ranges.map(|(from, to)| format!("{}–{}\nsamples ago", count(from as u64), count(to as u64))));
    let row = |memory: &Memory| {
        Row::of(std::iter::once(memory.name.clone()).chain(memory.errors.iter().map(|error| percent(*error))))
    };
    let rows: Vec<Row> = memories(report).map(row).collect();
    html! {
        (page::table(&headings(names), &rows))
        p { "Root mean square error in percent of the signal's standard deviation, over " (AVERAGED) " moments in the second half of the signal; \
            a dash is beyond the window." }
    }
}

fn three_views() -> Markup {
    html! {
        p {
            "An output is a weighted sum of the state, y = C x. Here C asks for one thing: what was the signal a fixed time ago? The same y comes out in three \
            ways. " i { "Continuous" } ": the integral of the signal, held between samples, times the impulse response. " i { "Recurrent" } ": x ← Ā x + B̄ u, a sample at a \
            time, at a cost that does not depend on what came before. " i { "Convolutional" } ": the signal times the kernel K̄" sub { "l" } " = C Ā" sup { "l" } " B̄, all \
            samples at once."
        }
        p {
            b { "What to look for. " } "The kernel peaks at the age that is read: the finer the memory of that age, the narrower the peak. Dots and diamonds \
            lie on each other up to rounding. They lie on the line, too, under the zero-order hold; other rules are off, by less for a smaller Δ."
        }
        p {
            b { "Why it matters. " } "S4 and its kin are trained by the convolution, which uses all of a device, and write text by the recurrence, whose cost and memory stay the \
            same at any length."
        }
    }
}

fn other_rates() -> Markup {
    html! {
        p {
            "The system knows time only through Δ. If only one sample in r arrives, the step becomes rΔ and everything else stays as it is. Here the output for \
            every r-th sample is held against that for all of them, at the same times."
        }
        p {
            b { "What to look for. " } "With the step multiplied the output stays where it was, only coarser. With the step as it was, the system takes the signal for \
            a faster one, and answers with what was r times as long ago."
        }
        p {
            b { "Why it matters. " } "A model of sound or of measurements that was trained at one rate runs at another without training. An ordinary \
            convolution has no such knob."
        }
    }
}

fn rates(report: &Report) -> Markup {
    let names = std::iter::once("system".to_string())
        .chain(
            super::views::RATES
                .iter()
                .map(|rate| format!("one in {rate},\nstep × {rate}")),
        )
        .chain(
            super::views::RATES
                .iter()
                .map(|rate| format!("one in {rate},\nstep as it was")),
        );
    let row = |system: &SystemReport| {
        let of = |rate: &usize| system.rates.iter().find(|at| at.rate == *rate);
        let cell = |error: Option<f64>| error.map_or("unstable".into(), |error| percent(Some(error)));
        let adapted = super::views::RATES
            .iter()
            .map(|rate| cell(of(rate).map(|at| at.error)));
        let unchanged = super::views::RATES
            .iter()
            .map(|rate| cell(of(rate).map(|at| at.error_unchanged)));
        Row::of(
            std::iter::once(system.named.name().to_string())
                .chain(adapted)
                .chain(unchanged),
        )
    };
    let rows: Vec<Row> = report.systems.iter().map(row).collect();
    html! {
        (page::table(&headings(names), &rows))
        p { "Difference from the output for every sample, ‖y′ − y‖/‖y‖." }
    }
}

fn sources() -> Markup {
    html! {
        ul {
            li { "HiPPO, the measures and LegS: Gu, Dao, Ermon, Rudra, Ré 2020, arXiv 2008.07669." }
            li { "S4: Gu, Goel, Ré 2021, arXiv 2111.00396. The measures as fixed systems, and FouT: Gu, Johnson, Timalsina, Rudra, Ré 2022, arXiv 2206.12037." }
            li { "S4D: Gu, Gupta, Goel, Ré 2022, arXiv 2206.11893." }
            li { "The Legendre Memory Unit: Voelker, Kajić, Eliasmith 2019." }
        }
    }
}
