//! Files of torch.save, made byte by byte.

/// A zip archive of stored entries: each name with its data.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let start = file.len() as u32;
        let sizes = [[0; 12].as_slice(), &(data.len() as u32).to_le_bytes().repeat(2)].concat(); // no time, no checksum
        let lengths = [name.len() as u16, 0].map(u16::to_le_bytes).concat();
        file.extend([b"PK\x03\x04\0\0\0\0\0\0".as_slice(), &sizes[4..], &lengths, name.as_bytes(), data].concat());
        let rest = [[0; 10].as_slice(), &start.to_le_bytes(), name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02\0\0\0\0\0\0\0\0".as_slice(), &sizes[4..], &lengths, &rest].concat());
    }
    let count = (entries.len() as u16).to_le_bytes().repeat(2);
    let place = [directory.len() as u32, file.len() as u32].map(u32::to_le_bytes).concat();
    [file.as_slice(), &directory, b"PK\x05\x06\0\0\0\0", &count, &place, &[0; 2]].concat()
}

/// A zip file of torch.save: a pickle, and its storages from key 0 on.
pub fn zipped(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let names: Vec<String> = (0..storages.len()).map(|key| format!("x/data/{key}")).collect();
    let storages = names.iter().map(String::as_str).zip(storages.iter().copied());
    zip(&[("x/data.pkl", pickle)].into_iter().chain(storages).collect::<Vec<_>>())
}

/// A pickled string.
pub fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A pickled whole number.
pub fn int(n: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &n.to_le_bytes()].concat()
}

/// A pickled tuple.
pub fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
    [b"(".as_slice(), &parts.concat(), b"t"].concat()
}

/// A pickled dict of what is pickled already.
pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(".as_slice(), &entries, b"u"].concat()
}

/// A pickle of one value.
pub fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

/// A pickled tensor of f32 in storage `key`.
pub fn tensor(key: &str, numel: i64, offset: i64, size: &[i64], strides: &[i64]) -> Vec<u8> {
    let class = b"ctorch\nFloatStorage\n".to_vec();
    let id = tuple(&[text("storage"), class, text(key), text("cpu"), int(numel)]);
    let storage = [id.as_slice(), b"Q"].concat();
    let numbers = |numbers: &[i64]| tuple(&numbers.iter().map(|&n| int(n)).collect::<Vec<_>>());
    let arguments = tuple(&[storage, int(offset), numbers(size), numbers(strides), b"\x89".to_vec(), b"}".to_vec()]);
    [b"ctorch._utils\n_rebuild_tensor_v2\n".as_slice(), &arguments, b"R"].concat()
}
