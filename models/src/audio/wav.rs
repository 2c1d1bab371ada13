//! WAV files: integers of 8, 16, 24 or 32 bits, or floating point of 32, at any rate; a file of 16 bits is what is written.

use std::io::BufReader;
use std::path::Path;

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};
use serde::{Deserialize, Serialize};

use super::AudioError;
use crate::budget::{self, product};
use crate::input;
use crate::output::{NewFile, OutputError};

/// What becomes of several channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// A file of several channels is refused with [`AudioError::Channels`].
    #[default]
    One,
    /// Several channels become one: the mean of their samples at every moment.
    Mean,
}

/// Samples of one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Samples in a second.
    pub sample_rate: u32,
    /// Samples of the clip, finite; from −1 to 1 where the file holds integers.
    pub samples: Vec<f32>,
}

/// Reads a file.
///
/// # Errors
/// [`AudioError::Io`] and [`AudioError::Wav`] for a file that cannot be read or is none, [`AudioError::CutOff`] for one that ends too soon,
/// [`AudioError::NoSamples`], [`AudioError::Channels`], [`AudioError::NonFinite`]; [`AudioError::Budget`] where there is no memory for it.
pub fn read(path: &Path, channels: Channels) -> Result<Clip, AudioError> {
    let (file, metadata) = input::open(path).map_err(AudioError::io(path, "opening"))?;
    let reader = WavReader::new(BufReader::new(file)).map_err(|error| unusable(path, &error))?;
    let spec = reader.spec();
    if spec.channels != 1 && channels == Channels::One {
        return Err(AudioError::Channels {
            path: path.to_path_buf(),
            found: spec.channels,
        });
    }
    if spec.sample_rate == 0 || spec.channels == 0 {
        return Err(AudioError::Wav {
            path: path.to_path_buf(),
            reason: format!(
                "{} channels at {} samples a second",
                spec.channels, spec.sample_rate
            ),
        });
    }
    // Of what a header says no more is believed than the file has bytes for.
    let most = metadata.len().saturating_mul(4);
    budget::ask("the samples of a WAV file", Some(most), "take shorter files")?;
    let all = match (spec.sample_format, spec.bits_per_sample) {
        (SampleFormat::Float, 32) => samples::<f32>(reader, path, |sample| sample)?,
        (SampleFormat::Int, bits @ (8 | 16 | 24 | 32)) => {
            let full = 2f32.powi(i32::from(bits) - 1);
            samples::<i32>(reader, path, |sample| sample as f32 / full)?
        }
        (format, bits) => {
            return Err(AudioError::Wav {
                path: path.to_path_buf(),
                reason: format!("{bits} bits of format {format:?}"),
            });
        }
    };
    let count = usize::from(spec.channels);
    let mean = |frame: &[f32]| frame.iter().sum::<f32>() / count as f32;
    let samples: Vec<f32> = match count {
        1 => all,
        count => all.chunks_exact(count).map(mean).collect(),
    };
    match samples.is_empty() {
        true => Err(AudioError::NoSamples {
            path: path.to_path_buf(),
        }),
        false => Ok(Clip {
            sample_rate: spec.sample_rate,
            samples,
        }),
    }
}

/// All samples of all channels.
fn samples<S: hound::Sample>(
    mut reader: WavReader<BufReader<std::fs::File>>,
    path: &Path,
    value: impl Fn(S) -> f32,
) -> Result<Vec<f32>, AudioError> {
    let expected = u64::from(reader.len());
    let mut all = Vec::new();
    for sample in reader.samples::<S>() {
        let sample = match sample {
            Ok(sample) => value(sample),
            Err(hound::Error::IoError(error)) if is_the_end(&error) => {
                return Err(AudioError::CutOff {
                    path: path.to_path_buf(),
                    expected,
                    found: all.len() as u64,
                });
            }
            Err(error) => return Err(unusable(path, &error)),
        };
        if !sample.is_finite() {
            return Err(AudioError::NonFinite {
                path: path.to_path_buf(),
                index: all.len() as u64,
                value: sample,
            });
        }
        all.push(sample);
    }
    Ok(all)
}

/// Whether a file has ended; the reader has words of its own for that.
fn is_the_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::Other)
}

fn unusable(path: &Path, error: &hound::Error) -> AudioError {
    AudioError::Wav {
        path: path.to_path_buf(),
        reason: error.to_string(),
    }
}

/// Writes samples from −1 to 1, louder ones cut off, as a file of 16 bits; it is whole or absent. Returns how many were cut off.
///
/// # Errors
/// [`AudioError::Write`] where the file cannot be written, [`AudioError::Option`] for a rate of 0, [`AudioError::Wav`] for more samples than a
/// WAV file can hold.
pub fn write(path: &Path, clip: &Clip) -> Result<usize, AudioError> {
    if clip.sample_rate == 0 {
        return Err(AudioError::Option {
            option: "sample_rate",
            expected: "at least 1",
            found: "0".into(),
        });
    }
    // The largest file that a header of 32 bits can tell the size of.
    let bytes = product([clip.samples.len() as u64, 2]);
    if bytes.is_none_or(|bytes| bytes > u64::from(u32::MAX) - 64) {
        return Err(AudioError::Wav {
            path: path.to_path_buf(),
            reason: format!("{} samples are more than one can hold", clip.samples.len()),
        });
    }
    let spec = WavSpec {
        channels: 1,
        sample_rate: clip.sample_rate,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let mut file = NewFile::create(path)?;
    let failed = |error: hound::Error| match error {
        hound::Error::IoError(error) => AudioError::Write(OutputError::io(path, "writing")(error)),
        error => unusable(path, &error),
    };
    let mut writer = WavWriter::new(file.writer(), spec).map_err(failed)?;
    let mut cut_off = 0;
    for sample in &clip.samples {
        let scaled = (sample * 32768.0).round();
        cut_off += usize::from(!(-32768.0..=32767.0).contains(&scaled));
        writer
            .write_sample(scaled.clamp(-32768.0, 32767.0) as i16)
            .map_err(failed)?;
    }
    writer.finalize().map_err(failed)?;
    file.commit()?;
    Ok(cut_off)
}
