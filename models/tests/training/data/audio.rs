//! Sound: codes beside other people's, files of every kind and every way to be wrong, batches.

use std::f64::consts::PI;
use std::path::PathBuf;

use spillway_models::audio::wav::{self, Channels, Clip};
use spillway_models::audio::{AudioFormat, Codec, Law, Level};
use spillway_models::checkpoint::StoredTensors;

use super::*;

fn tone(count: usize) -> Vec<f32> {
    (0..count)
        .map(|n| (0.7 * (2.0 * PI * 0.031 * n as f64).sin()) as f32)
        .collect()
}

fn write(folder: &Path, name: &str, sample_rate: u32, samples: Vec<f32>) -> PathBuf {
    let path = folder.join(name);
    wav::write(&path, &Clip { sample_rate, samples }).expect("written");
    path
}

/// A file as `hound` writes it.
fn write_as<S: hound::Sample + Copy>(
    path: &Path,
    (channels, bits, format): (u16, u16, hound::SampleFormat),
    samples: &[S],
) {
    let spec = hound::WavSpec {
        channels,
        sample_rate: 8000,
        bits_per_sample: bits,
        sample_format: format,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    samples
        .iter()
        .for_each(|sample| writer.write_sample(*sample).unwrap());
    writer.finalize().unwrap();
}

#[test]
fn codes_and_samples_are_those_of_state_spaces() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/audio");
    let text = fs::read_to_string(folder.join("audio_codec.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let stored = StoredTensors::open(&folder.join("audio_codec.safetensors")).unwrap();
    let f32s = |name: &str| -> Vec<f32> {
        let (_, _, bytes) = stored.raw(name).unwrap_or_else(|| panic!("no {name}"));
        let values = bytes.chunks_exact(4);
        values
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let mut compared = 0;
    for case in cases["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let codec = Codec {
            law: match case["scalars"]["kind"].as_str().unwrap() {
                "linear" => Law::Linear,
                _ => Law::MuLaw,
            },
            bits: case["scalars"]["bits"].as_u64().unwrap() as u32,
            level: Level::Clip,
        };
        let wave = f32s(&format!("{name}/in.wave"));
        let clip = wave.len() / case["dims"]["B"].as_u64().unwrap() as usize;
        let codes: Vec<u32> = wave.chunks(clip).flat_map(|clip| codec.encode(clip)).collect();
        let (_, _, bytes) = stored.raw(&format!("{name}/out.codes")).unwrap();
        let expected = bytes.chunks_exact(8);
        let expected: Vec<u32> = expected
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect();
        assert_eq!(codes, expected, "{name}");
        let decoded = |codes: &[u32]| codes.iter().map(|code| codec.decode(*code)).collect::<Vec<_>>();
        let all: Vec<u32> = (0..codec.vocab_size() as u32).collect();
        for (what, found) in [("decoded", decoded(&codes)), ("all_decoded", decoded(&all))] {
            // Both are f64 rounded to f32.
            let expected = f32s(&format!("{name}/out.{what}"));
            assert_eq!(found.len(), expected.len());
            let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) <= 1e-7, "{name} {what}");
        }
        compared += 1;
    }
    assert_eq!(compared, 4);
}

#[test]
fn silence_is_the_zero_level_where_levels_are_as_stored_and_every_code_comes_back() {
    for (law, bits) in [
        (Law::MuLaw, 8),
        (Law::Linear, 8),
        (Law::MuLaw, 4),
        (Law::Linear, 12),
    ] {
        let codec = Codec {
            law,
            bits,
            level: Level::AsStored,
        };
        assert_eq!(codec.encode(&[0.0]), [codec.zero()], "{codec:?}");
        assert_eq!(codec.decode(codec.zero()), 0.0);
        assert_eq!(codec.encode(&[-1.0, -9.0]), [0, 0]);
        assert_eq!(codec.encode(&[1.0, 9.0]), [codec.zero() * 2 - 1; 2]);
        let samples: Vec<f32> = (0..codec.vocab_size() as u32)
            .map(|code| codec.decode(code))
            .collect();
        assert!(samples.windows(2).all(|pair| pair[0] < pair[1]), "{codec:?}");
    }
    for bits in [0, 1, 17] {
        let codec = Codec {
            bits,
            ..Codec::default()
        };
        assert!(codec.check().is_err());
    }
}

#[test]
fn every_kind_of_wav_file_gives_its_samples() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sound.wav");
    let (int, float) = (hound::SampleFormat::Int, hound::SampleFormat::Float);
    for bits in [8, 16, 24, 32] {
        let full = 1i64 << (bits - 1);
        let samples = [-full, -full / 2, 0, full / 4, full - 1].map(|sample| sample as i32);
        write_as(&path, (1, bits, int), &samples);
        let clip = wav::read(&path, Channels::One).unwrap();
        let expected = samples.map(|sample| (f64::from(sample) / full as f64) as f32);
        assert_eq!(clip.samples, expected, "{bits} bits");
        assert_eq!(clip.sample_rate, 8000);
    }
    write_as(&path, (1, 32, float), &[0.25f32, -1.5]);
    assert_eq!(wav::read(&path, Channels::One).unwrap().samples, [0.25, -1.5]);
    write_as(&path, (2, 32, float), &[0.25f32, 0.75, -0.5, 0.5]);
    assert_eq!(wav::read(&path, Channels::Mean).unwrap().samples, [0.5, 0.0]);

    // What is written is read again, to the sixteenth bit.
    let samples = tone(100);
    write(folder.path(), "sound.wav", 22_050, samples.clone());
    let clip = wav::read(&path, Channels::One).unwrap();
    assert_eq!((clip.sample_rate, clip.samples.len()), (22_050, 100));
    assert!(
        clip.samples
            .iter()
            .zip(&samples)
            .all(|(a, b)| (a - b).abs() <= 0.5 / 32768.0)
    );
}

#[test]
fn bad_sound_is_refused_with_its_file_and_reason() {
    let folder = TempDir::new().unwrap();
    let (int, float) = (hound::SampleFormat::Int, hound::SampleFormat::Float);
    let at = |name: &str| folder.path().join(name);
    let of = |name: &str| json!({"kind": "audio", "paths": [name], "sample_rate": 8000});
    let short = (1, 4);

    write_as(&at("stereo.wav"), (2, 16, int), &[1i16; 40]);
    refused(
        folder.path(),
        of("stereo.wav"),
        short,
        &["stereo.wav", "one channel, found 2", "mean"],
    );
    write(folder.path(), "fast.wav", 16_000, tone(40));
    let parts = ["fast.wav", "expected 8000", "found 16000", "resample"];
    refused(folder.path(), of("fast.wav"), short, &parts);
    write_as(&at("nan.wav"), (1, 32, float), &[0.0, f32::NAN]);
    refused(
        folder.path(),
        of("nan.wav"),
        short,
        &["nan.wav", "sample 1", "NaN"],
    );
    write_as::<i16>(&at("none.wav"), (1, 16, int), &[]);
    refused(
        folder.path(),
        of("none.wav"),
        short,
        &["none.wav", "at least one sample"],
    );
    fs::write(at("text.wav"), "no sound at all, not even a header of one").unwrap();
    refused(folder.path(), of("text.wav"), short, &["text.wav", "a WAV file"]);
    fs::write(at("empty.wav"), "").unwrap();
    refused(
        folder.path(),
        of("empty.wav"),
        short,
        &["empty.wav", "a WAV file"],
    );

    let whole = fs::read(write(folder.path(), "whole.wav", 8000, tone(40))).unwrap();
    for bytes in [whole.len() - 1, whole.len() - 30, 50, 44, 30, 11] {
        fs::write(at("cut.wav"), &whole[..bytes]).unwrap();
        refused(folder.path(), of("cut.wav"), short, &["cut.wav", "expected"]);
    }
    fs::write(at("cut.wav"), &whole[..whole.len() - 2]).unwrap();
    refused(
        folder.path(),
        of("cut.wav"),
        short,
        &["cut off", "40 samples", "found 39"],
    );

    fs::create_dir(at("folder")).unwrap();
    refused(folder.path(), of("folder"), short, &["folder", ".wav"]);
    refused(folder.path(), of("nowhere"), short, &["nowhere"]);
    let small = with(of("whole.wav"), json!({"codec": {"bits": 1}}));
    refused(folder.path(), small, short, &["codec.bits", "2 to 16", "found 1"]);
    let still = json!({"kind": "audio", "paths": ["whole.wav"], "sample_rate": 0});
    refused(folder.path(), still, short, &["sample_rate", "at least 1"]);
    let nothing = json!({"kind": "audio", "paths": [], "sample_rate": 8000});
    refused(folder.path(), nothing, short, &["paths", "at least one"]);
    refused(
        folder.path(),
        of("whole.wav"),
        (1, 40),
        &["whole.wav", "at least 41", "found 40"],
    );
}

#[test]
fn batches_are_the_codes_of_the_files_one_after_another() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("sounds")).unwrap();
    let sounds = folder.path().join("sounds");
    let (first, second) = (tone(50), tone(90).split_off(40));
    write(&sounds, "a.wav", 8000, first.clone());
    write(&sounds, "b.WAV", 8000, second.clone());
    fs::write(sounds.join("notes.txt"), "no sound").unwrap();
    let codec = Codec {
        law: Law::Linear,
        ..Codec::default()
    };
    // As the files have them, with 16 bits.
    let stored = |samples: Vec<f32>| -> Vec<f32> {
        let rounded = samples.into_iter().map(|x| (x * 32768.0).round() / 32768.0);
        rounded.collect()
    };
    let expected = [codec.encode(&stored(first)), codec.encode(&stored(second))].concat();
    let data = json!({"kind": "audio", "paths": ["sounds"], "sample_rate": 8000, "codec": {"law": "linear"}, "order": "documents"});
    let mut source = open(folder.path(), data.clone(), 1, 20, 3);
    assert_eq!(source.vocab_size(), 256);
    let found: Vec<u32> = take(&mut *source, 5)
        .into_iter()
        .flat_map(|batch| batch.ids)
        .collect();
    assert_eq!(found, expected);

    // The end that is held out is no part of the training.
    let parted = config(with(data.clone(), json!({"held_out": 0.3})));
    let held_out = parted.held_out().expect("a part that is held out");
    let mut source = held_out
        .open(folder.path(), 1, 29, &Tokenizer::bytes(), 0)
        .unwrap();
    assert_eq!(source.next().unwrap().ids, expected[70..99]);

    // Files of another rate, where they are to be brought to one.
    let slow = with(data, json!({"sample_rate": 4000, "resample": true}));
    let batch = open(folder.path(), slow, 1, 49, 3).next().unwrap();
    assert_eq!(batch.ids.len(), 49);
}

#[test]
fn the_note_beside_the_weights_says_what_tokens_are() {
    let folder = TempDir::new().unwrap();
    assert!(AudioFormat::of(folder.path()).unwrap().is_none());
    let format = AudioFormat {
        codec: Codec {
            bits: 6,
            ..Codec::default()
        },
        sample_rate: 8000,
    };
    format.write(folder.path()).unwrap();
    assert_eq!(AudioFormat::of(folder.path()).unwrap(), Some(format));
    let wrong = [
        "",
        "{}",
        r#"{"codec": {"bits": 99}, "sample_rate": 8000}"#,
        r#"{"codec": {}, "sample_rate": 0}"#,
        r#"{"codec": {}, "sample_rate": 8000, "more": 1}"#,
    ];
    for text in wrong {
        fs::write(folder.path().join("audio.json"), text).unwrap();
        let error = AudioFormat::of(folder.path()).unwrap_err();
        holds(&error.to_string(), &["audio.json", "expected"]);
    }
}
