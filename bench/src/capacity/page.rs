//! `report.html`, `RESULTS.md` and `results.csv`.

use super::analysis::Laws;
use super::figures::{Picture, Place};
use super::findings::interval_of;
use super::report::Report;
use super::result::RunResult;
use crate::diagnose::report::figures::Figure;
use crate::diagnose::report::format::{count, position};
use crate::diagnose::report::html::{document, escape, push, section};
use std::io::{self, Write};

/// The page.
pub fn page(report: &Report, pictures: &[Picture]) -> String {
    let mut body = String::new();
    head(&mut body, report);
    list(
        &mut body,
        "What the trainings support",
        &report.findings.supported,
    );
    list(
        &mut body,
        "What they do not support",
        &report.findings.unsupported,
    );
    if !report.analyses.is_empty() {
        section(&mut body, "Thresholds");
        draw(&mut body, pictures, Place::Thresholds);
        report.analyses.iter().for_each(|analysis| {
            let title = format!("{}, task {}", analysis.quantity, analysis.task);
            laws(
                &mut body,
                &title,
                "S in thousands of elements, T in tokens",
                &analysis.laws,
            );
        });
        for (title, place) in [("Collapse", Place::Collapse), ("Passkeys", Place::Recall)] {
            if pictures.iter().any(|picture| picture.place == place) {
                section(&mut body, title);
                draw(&mut body, pictures, place);
            }
        }
    }
    list(
        &mut body,
        "The published points, fitted once more",
        &report.findings.published,
    );
    draw(&mut body, pictures, Place::Published);
    for published in &report.published {
        laws(
            &mut body,
            &published.name,
            "S in millions of elements, T in thousands of tokens",
            &published.laws,
        );
    }
    section(&mut body, "Every training");
    trainings(&mut body, &report.runs);
    section(&mut body, "How this was measured");
    method(&mut body, report);
    document(&format!("State capacity: {}", report.setting.name), &body)
}

fn head(body: &mut String, report: &Report) {
    push(
        body,
        format_args!("<h1>State capacity: {}</h1>", escape(&report.setting.name)),
    );
    push(
        body,
        format_args!("<p class=\"facts\">{}</p>", escape(&facts(report))),
    );
    push(
        body,
        format_args!("<pre>{}</pre>", escape(&report.setting.command)),
    );
}

/// One line on what was run, where and how long.
fn facts(report: &Report) -> String {
    let mut facts = format!("{} of {} trainings", report.runs.len(), report.setting.planned);
    let Some(record) = &report.setting.record else {
        return facts;
    };
    facts.push_str(&format!(
        "; {}, {}; {} in all, {} at a time",
        record.machine,
        record.date,
        duration(record.seconds),
        record.workers,
    ));
    match record.load() {
        Some(load) if record.was_shared() => facts.push_str(&format!(
            ". The machine was shared: its mean load was {load:.1}, so that the sweep alone would have been faster"
        )),
        Some(load) => facts.push_str(&format!("; mean load of the machine {load:.1}")),
        None => {}
    }
    facts
}

/// `12 s`, `29 min`, `3.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn list(body: &mut String, title: &str, sentences: &[String]) {
    if sentences.is_empty() {
        return;
    }
    section(body, title);
    body.push_str("<ul>");
    for sentence in sentences {
        push(body, format_args!("<li>{}</li>", escape(sentence)));
    }
    body.push_str("</ul>");
}

fn draw(body: &mut String, pictures: &[Picture], place: Place) {
    let here = || pictures.iter().filter(|picture| picture.place == place);
    here()
        .filter(|picture| !picture.small)
        .for_each(|picture| figure(body, &picture.figure));
    body.push_str("<div class=\"pairs\">");
    here()
        .filter(|picture| picture.small)
        .for_each(|picture| figure(body, &picture.figure));
    body.push_str("</div>");
}

fn figure(body: &mut String, figure: &Figure) {
    push(
        body,
        format_args!(
            "\n<figure><h3>{}</h3>{}<figcaption>{}</figcaption></figure>",
            escape(&figure.title),
            figure.svg,
            escape(&figure.caption)
        ),
    );
}

fn laws(body: &mut String, title: &str, units: &str, laws: &Laws) {
    push(body, format_args!("<h3>{}</h3>", escape(title)));
    if !laws.fits.is_empty() {
        push(
            body,
            format_args!(
                "<div class=\"scroll\"><table class=\"dense\"><tr><th>law</th><th>errors</th><th>{units}</th><th>bootstrap 95 %</th>\
                 <th>resamples<br>not fitted</th><th>σ</th><th>R²</th><th>ln L</th><th>AIC</th><th>AICc</th><th>behind</th></tr>"
            ),
        );
        (0..laws.fits.len()).for_each(|index| law(body, laws, index));
        body.push_str("</table></div>");
    }
    for reason in &laws.refused {
        push(body, format_args!("<p>Left out: {}.</p>", escape(reason)));
    }
}

fn law(body: &mut String, laws: &Laws, index: usize) {
    let fit = &laws.fits[index];
    let bootstrap = laws.bootstraps.get(index).and_then(Option::as_ref);
    let ranges = bootstrap.map_or("–".into(), |bootstrap| {
        let named = bootstrap.parameters.iter().zip(["a", "b", "c"]);
        let ranges: Vec<String> = named
            .map(|(range, name)| {
                let number = super::fit::law::number;
                format!("{name}: {} to {}", number(range.low), number(range.high))
            })
            .collect();
        if ranges.is_empty() {
            "too few".into()
        } else {
            ranges.join("<br>")
        }
    });
    let failed = bootstrap.map_or("–".into(), |bootstrap| {
        format!("{} of {}", bootstrap.failed, bootstrap.resamples)
    });
    let optional = |value: Option<f64>, decimals: usize, none: &str| {
        value.map_or(none.to_string(), |value| format!("{value:.decimals$}"))
    };
    let sigma = match fit.at_floor {
        true => "at its floor".to_string(),
        false => super::fit::law::number(fit.sigma),
    };
    push(
        body,
        format_args!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{ranges}</td><td>{failed}</td><td>{sigma}</td><td>{}</td><td>{:.2}</td><td>{:.2}</td>\
             <td>{}</td><td>{:.1}</td></tr>",
            fit.law,
            fit.error,
            escape(&fit.formula()),
            optional(fit.r_squared, 4, "–"),
            fit.log_likelihood,
            fit.aic,
            optional(fit.aicc, 2, "undefined"),
            laws.behind(fit),
        ),
    );
}

const COLUMNS: [&str; 16] = [
    "task",
    "elements",
    "d_state",
    "layers",
    "model_dim",
    "parameters",
    "train_length",
    "seed",
    "steps",
    "tokens",
    "train_loss",
    "loss_inside",
    "loss_worst",
    "loss_ratio",
    "perplexity_ratio",
    "recall_length",
];

fn values(run: &RunResult) -> [String; 16] {
    let forgetting = run.forgetting.as_ref();
    let loss = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
    let ratio = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
    let passes = |correct: u64, samples: u64| correct as f64 > 0.95 * samples as f64;
    let reach = run
        .recall
        .as_ref()
        .map(|recall| recall.reach(passes).unwrap_or(0));
    [
        run.task.clone(),
        run.elements.to_string(),
        run.state.d_state.to_string(),
        run.state.layers.to_string(),
        run.state.model_dim.to_string(),
        run.parameters.to_string(),
        run.train_length.to_string(),
        run.seed.to_string(),
        run.steps.to_string(),
        run.tokens.to_string(),
        format!("{:.4}", run.train_loss),
        loss(forgetting.and_then(|forgetting| forgetting.inside)),
        loss(forgetting.and_then(|forgetting| forgetting.worst)),
        ratio(forgetting.map(|forgetting| forgetting.loss_ratio())),
        ratio(forgetting.map(|forgetting| forgetting.perplexity_ratio())),
        reach.map_or(String::new(), |reach| reach.to_string()),
    ]
}

/// `results.csv`: a line for each training.
///
/// # Errors
/// Those of writing.
pub fn write_csv(runs: &[RunResult], file: &mut dyn Write) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(file);
    csv.write_record(COLUMNS)?;
    for run in runs {
        csv.write_record(values(run))?;
    }
    csv.flush()
}

fn trainings(body: &mut String, runs: &[RunResult]) {
    let headings: String = COLUMNS
        .iter()
        .map(|name| format!("<th>{}</th>", name.replace('_', "<br>")))
        .collect();
    push(
        body,
        format_args!("<div class=\"scroll\"><table class=\"dense\"><tr>{headings}</tr>"),
    );
    for run in runs {
        let cells: String = values(run)
            .iter()
            .map(|value| format!("<td>{}</td>", escape(value)))
            .collect();
        push(body, format_args!("<tr>{cells}</tr>"));
    }
    body.push_str("</table></div>");
}

fn method(body: &mut String, report: &Report) {
    let setting = &report.setting;
    for task in &setting.tasks {
        push(
            body,
            format_args!(
                "<p><b>Task {}.</b> {}; {}.</p>",
                escape(&task.name),
                escape(&task.data),
                escape(&task.initialisation)
            ),
        );
    }
    push(
        body,
        format_args!(
            "<p><b>Collapse.</b> Streams of held-out data are read from an empty state far beyond the training length; losses are averaged over \
             streams in buckets of one training length inside it and of half an octave beyond. A model has collapsed if the largest bucket beyond is \
             over {} times the largest inside: in loss as the published experiment has it, and in perplexity, which is a different test (at 1.5 nats, \
             twice the loss is e<sup>1.5</sup> = 4.5 times the perplexity).</p>",
            setting.collapse_ratio
        ),
    );
    body.push_str(
        "<p><b>Thresholds.</b> T_forget lies between the longest training length that collapses and the shortest that does not; T_recall is the \
         longest context up to which more than 95 % of the passkeys are found (with the Wilson bound: whose 95 % interval lies above 95 %), over all training lengths.</p>\
         <p><b>Fits.</b> Maximum likelihood; of intervals the probability of the interval, open ends included. All likelihoods are of the lengths \
         themselves, so that AIC compares laws and error models on the same points. AICc = AIC + 2k(k+1)/(n−k−1), k with σ, is undefined for n ≤ k + 1; \
         laws are ranked by it where all have it, else by AIC. σ is at least 5 % where lengths are intervals.</p>",
    );
    push(
        body,
        format_args!(
            "<p><b>Bootstrap.</b> {} resamples of the sizes and, within a size, of its seeds (seed {}); percentile intervals. They, and the profiles, are too \
             narrow for so few sizes; profiles moreover take seeds as independent of each other. Each training runs on one thread and is the same bits whatever else runs.</p>",
            setting.resampling.resamples, setting.resampling.seed
        ),
    );
    push(
        body,
        format_args!(
            "<h3>Configuration</h3><pre>{}</pre>",
            escape(&setting.configuration)
        ),
    );
    body.push_str(
        "<p><b>Files.</b> results.json holds everything on this page as data, results.csv a line for each training, figures/ the pictures, runs/ what each \
         training gave.</p>",
    );
}

/// `RESULTS.md`: the page in a few paragraphs.
pub fn markdown(report: &Report, pictures: &[Picture]) -> String {
    let mut text = format!("# State capacity: {}\n\n", report.setting.name);
    text.push_str(&format!("    {}\n\n{}.\n", report.setting.command, facts(report)));
    let mut part = |title: &str, sentences: &[String]| {
        if !sentences.is_empty() {
            text.push_str(&format!("\n## {title}\n\n"));
            sentences
                .iter()
                .for_each(|sentence| text.push_str(&format!("- {sentence}\n")));
        }
    };
    part("What the trainings support", &report.findings.supported);
    part("What they do not support", &report.findings.unsupported);
    part(
        "The published points, fitted once more",
        &report.findings.published,
    );
    for analysis in &report.analyses {
        text.push_str(&format!(
            "\n## {}, task {}\n\n| state elements | seed | {} (tokens) | by training length |\n|---|---|---|---|\n",
            analysis.quantity,
            analysis.task,
            analysis.quantity.symbol(),
        ));
        for threshold in &analysis.thresholds {
            let trials: Vec<String> = threshold
                .trials
                .iter()
                .map(|trial| {
                    format!(
                        "{}: {}",
                        position(trial.length as f64),
                        trial_value(trial.value, analysis.quantity.is_forget())
                    )
                })
                .collect();
            text.push_str(&format!(
                "| {} | {} | {} | {} |\n",
                count(threshold.elements),
                threshold.seed,
                interval_of(analysis.quantity, threshold.interval),
                trials.join(", "),
            ));
        }
        if let Some(best) = analysis.laws.fits.first() {
            text.push_str(&format!(
                "\nBest law: {} with {} errors, {} (S in thousands of elements).\n",
                best.law,
                best.error,
                best.formula()
            ));
        }
    }
    text.push_str("\n## Figures\n\n");
    for picture in pictures {
        text.push_str(&format!(
            "- [{}](figures/{}.svg)\n",
            picture.figure.title, picture.name
        ));
    }
    text
}

fn trial_value(value: f64, is_ratio: bool) -> String {
    match is_ratio {
        true if value.is_finite() => format!("{value:.2}"),
        true => "not finite".into(),
        false => format!("{value:.0}"),
    }
}
