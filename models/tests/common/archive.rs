//! PyTorch files made by hand: a zip archive of stored entries, and pickles instruction by instruction.

#![allow(dead_code, reason = "each user takes a part")]

/// An entry of an archive, with the fields that a hostile one would set.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
    pub flags: u16,
    pub method: u16,
    /// Sizes and place in fields of 64 bits, as in archives beyond 4 GiB.
    pub wide: bool,
}

impl<'a> Entry<'a> {
    pub fn stored(name: &'a str, bytes: &'a [u8]) -> Self {
        let (flags, method, wide) = (0, 0, false);
        Self {
            name,
            bytes,
            flags,
            method,
            wide,
        }
    }
}

/// The archive; checksums are left out, as nothing reads them.
pub fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = file.len();
        let name = entry.name.as_bytes();
        let header = |out: &mut Vec<u8>, size: u32, extra: &[u8]| {
            for number in [20, entry.flags, entry.method, 0, 0] {
                out.extend(u16::to_le_bytes(number));
            }
            for number in [0, size, size] {
                out.extend(number.to_le_bytes());
            }
            out.extend((name.len() as u16).to_le_bytes());
            out.extend((extra.len() as u16).to_le_bytes());
        };
        let size = entry.bytes.len() as u32;
        // The local header has a filler, as torch.save puts there to align the bytes that follow.
        let filler = [b"FB\x03\0".as_slice(), b"ZZZ"].concat();
        file.extend(b"PK\x03\x04");
        header(&mut file, size, &filler);
        file.extend([name, &filler, entry.bytes].concat());

        let mut extra = filler.clone();
        if entry.wide {
            extra.extend([1, 0, 24, 0]);
            for number in [u64::from(size), size.into(), at as u64] {
                extra.extend(number.to_le_bytes());
            }
        }
        directory.extend(b"PK\x01\x02\x14\0");
        header(&mut directory, if entry.wide { u32::MAX } else { size }, &extra);
        directory.extend([0; 10]);
        directory.extend(if entry.wide { u32::MAX } else { at as u32 }.to_le_bytes());
        directory.extend([name, &extra].concat());
    }
    let (offset, size, count) = (file.len() as u64, directory.len() as u64, entries.len() as u64);
    file.extend(directory);
    let wide = entries.iter().any(|entry| entry.wide);
    if wide {
        let record = file.len() as u64;
        file.extend(b"PK\x06\x06");
        file.extend(44u64.to_le_bytes());
        file.extend([0; 12]);
        for number in [count, count, size, offset] {
            file.extend(number.to_le_bytes());
        }
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(record.to_le_bytes());
        file.extend(1u32.to_le_bytes());
    }
    file.extend(b"PK\x05\x06\0\0\0\0");
    for number in [count, count] {
        file.extend((if wide { u16::MAX } else { number as u16 }).to_le_bytes());
    }
    for number in [size, offset] {
        file.extend((if wide { u32::MAX } else { number as u32 }).to_le_bytes());
    }
    file.extend([0; 2]);
    file
}

/// The archive that `torch.save` makes of a pickle and storages with keys `0`, `1` and so on.
pub fn pth(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let names: Vec<String> = (0..storages.len()).map(|key| format!("m/data/{key}")).collect();
    let mut entries = vec![
        Entry::stored("m/data.pkl", pickle),
        Entry::stored("m/byteorder", b"little"),
    ];
    entries.extend(
        names
            .iter()
            .zip(storages)
            .map(|(name, bytes)| Entry::stored(name, bytes)),
    );
    archive(&entries)
}

/// A tensor as a pickle describes it.
#[derive(Clone, Debug)]
pub struct Described<'a> {
    pub name: &'a str,
    pub class: &'a str,
    pub key: &'a str,
    pub values: i32,
    pub offset: i32,
    pub shape: &'a [i32],
    pub strides: &'a [i32],
}

pub fn text(text: &str) -> Vec<u8> {
    [
        b"X".as_slice(),
        &(text.len() as u32).to_le_bytes(),
        text.as_bytes(),
    ]
    .concat()
}

pub fn int(number: i32) -> Vec<u8> {
    [b"J".as_slice(), &number.to_le_bytes()].concat()
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), parts.concat(), b"t".to_vec()].concat()
}

impl Described<'_> {
    /// The instructions that make the tensor.
    pub fn pickle(&self) -> Vec<u8> {
        let sizes = |sizes: &[i32]| tuple(&sizes.iter().map(|n| int(*n)).collect::<Vec<_>>());
        let storage = tuple(&[
            text("storage"),
            global("torch", self.class),
            text(self.key),
            text("cpu"),
            int(self.values),
        ]);
        let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
        let arguments = [
            [storage, b"Q".to_vec()].concat(),
            int(self.offset),
            sizes(self.shape),
            sizes(self.strides),
            vec![0x89],
            hooks,
        ];
        let rebuild = global("torch._utils", "_rebuild_tensor_v2");
        [rebuild, tuple(&arguments), b"R".to_vec()].concat()
    }
}

/// A whole pickle whose outermost value is made by `value`.
pub fn program(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

/// A dictionary from name to whatever the instructions beside it make.
pub fn dictionary(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries = entries
        .iter()
        .flat_map(|(name, value)| [text(name), value.clone()].concat());
    [b"}(".to_vec(), entries.collect(), b"u".to_vec()].concat()
}

/// A good file with two tensors in one storage of six singles.
pub fn good() -> Vec<u8> {
    let values: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
    let described = |name, offset, shape, strides| Described {
        name,
        class: "FloatStorage",
        key: "0",
        values: 6,
        offset,
        shape,
        strides,
    };
    let tensors = [
        described("whole", 0, &[2, 3], &[3, 1]),
        described("row", 3, &[1, 3], &[77, 1]),
    ];
    let entries: Vec<_> = tensors.iter().map(|t| (t.name, t.pickle())).collect();
    pth(&program(&dictionary(&entries)), &[&values])
}
