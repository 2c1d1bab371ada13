//! The files of a report.

use super::page;
use super::report::Report;
use super::views::FINE;
use crate::error::ProgramError;
use crate::kit::provenance::Provenance;
use crate::output::OutputFolder;
use std::io;

impl Report {
    /// Writes all files.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn write(&self, folder: &mut OutputFolder, made: &Provenance) -> Result<(), ProgramError> {
        let page = page::page(self, made);
        folder.write_json("systems.json", &self.json())?;
        folder.write("functions.csv", |file| self.functions_csv(file))?;
        folder.write("eigenvalues.csv", |file| self.eigenvalues_csv(file))?;
        folder.write("memory.csv", |file| self.memory_csv(file))?;
        folder.write("errors.csv", |file| self.errors_csv(file))?;
        folder.write("outputs.csv", |file| self.outputs_csv(file))?;
        folder.write("report.html", |file| file.write_all(page.as_bytes()))
    }

    fn functions_csv(&self, file: &mut dyn io::Write) -> io::Result<()> {
        let rows = self.systems.iter().flat_map(|system| {
            system.functions.iter().flat_map(|function| {
                function.heard.iter().enumerate().map(|(i, (age, heard))| {
                    let meant = function
                        .meant
                        .get(i)
                        .map_or(String::new(), |(_, meant)| meant.to_string());
                    [
                        system.named.name().into(),
                        function.index.to_string(),
                        age.to_string(),
                        heard.to_string(),
                        meant,
                    ]
                })
            })
        });
        table(file, ["system", "number", "age_samples", "heard", "meant"], rows)
    }

    fn eigenvalues_csv(&self, file: &mut dyn io::Write) -> io::Result<()> {
        let rows = self.systems.iter().flat_map(|system| {
            system.modes.iter().map(|mode| {
                let [re, im] = mode.continuous.map(|x| x.to_string());
                let [discrete_re, discrete_im] = mode.discrete.map(|x| x.to_string());
                let half_life = mode.half_life.map_or(String::new(), |life| life.to_string());
                [
                    system.named.name().into(),
                    re,
                    im,
                    discrete_re,
                    discrete_im,
                    half_life,
                    mode.frequency.to_string(),
                ]
            })
        });
        let names = [
            "system",
            "re",
            "im",
            "discrete_re",
            "discrete_im",
            "half_life_samples",
            "turns_per_sample",
        ];
        table(file, names, rows)
    }

    fn memory_csv(&self, file: &mut dyn io::Write) -> io::Result<()> {
        let rows = self.memories().flat_map(|memory| {
            memory.snapshots.iter().flat_map(|snapshot| {
                snapshot.remembered.iter().map(|(sample, value)| {
                    let signal = self.signal.samples[*sample];
                    [
                        memory.name.clone(),
                        snapshot.heard.to_string(),
                        sample.to_string(),
                        signal.to_string(),
                        value.to_string(),
                    ]
                })
            })
        });
        table(
            file,
            ["system", "samples_heard", "sample", "signal", "remembered"],
            rows,
        )
    }

    fn errors_csv(&self, file: &mut dyn io::Write) -> io::Result<()> {
        let rows = self.memories().flat_map(|memory| {
            memory
                .by_age
                .iter()
                .map(|(age, error)| [memory.name.clone(), age.to_string(), error.to_string()])
        });
        table(
            file,
            ["system", "age_samples", "rms_error_in_standard_deviations"],
            rows,
        )
    }

    fn outputs_csv(&self, file: &mut dyn io::Write) -> io::Result<()> {
        let rows = self.systems.iter().flat_map(|system| {
            let views = &system.views;
            (0..views.recurrent.len()).map(|k| {
                let values = [
                    self.signal.samples[k],
                    views.recurrent[k],
                    views.convolved[k],
                    views.continuous[FINE * (k + 1) - 1],
                    views.kernel[k],
                ];
                let [signal, recurrent, convolved, continuous, kernel] =
                    values.map(|value| value.to_string());
                [
                    system.named.name().into(),
                    k.to_string(),
                    signal,
                    recurrent,
                    convolved,
                    continuous,
                    kernel,
                ]
            })
        });
        table(
            file,
            [
                "system",
                "sample",
                "signal",
                "recurrent",
                "convolved",
                "continuous",
                "kernel",
            ],
            rows,
        )
    }
}

fn table<const N: usize>(
    file: &mut dyn io::Write,
    names: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(file);
    writer.write_record(names).map_err(io::Error::other)?;
    for row in rows {
        writer.write_record(&row).map_err(io::Error::other)?;
    }
    writer.flush()
}
