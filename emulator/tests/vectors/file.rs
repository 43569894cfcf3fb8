//! Numbers, texts and blocks of bytes, little-endian and each with its length.

use super::{Arg, Buffer, Element, Exactness, Vector};

#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn number(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn block(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.block(text.as_bytes());
    }
}

/// Gives `None` where the bytes end too soon.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    pub fn block(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (block, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(block)
    }

    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.block()?.to_vec()).ok()
    }

    pub fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.number()?;
        (0..length).map(|_| item(self)).collect()
    }

    /// Every launch of a file.
    pub fn vectors(mut self) -> Option<Vec<Vector>> {
        let mut vectors = Vec::new();
        while !self.0.is_empty() {
            vectors.push(Vector::read(&mut self)?);
        }
        Some(vectors)
    }
}

impl Vector {
    pub fn write(&self, writer: &mut Writer) {
        writer.text(&self.name);
        writer.number(self.kernel.into());
        writer.text(&self.ptx);
        writer.text(&self.entry);
        self.grid.iter().chain(&self.block).for_each(|&n| writer.number(n.into()));
        writer.number(self.shared_bytes);
        writer.number(self.args.len() as u64);
        self.args.iter().for_each(|arg| arg.write(writer));
        writer.number(self.buffers.len() as u64);
        self.buffers.iter().for_each(|buffer| buffer.write(writer));
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (name, kernel, ptx, entry) = (reader.text()?, reader.number()? != 0, reader.text()?, reader.text()?);
        let dims: Vec<u32> = (0..6).map(|_| Some(reader.number()? as u32)).collect::<Option<_>>()?;
        let (grid, block) = ([dims[0], dims[1], dims[2]], [dims[3], dims[4], dims[5]]);
        let shared_bytes = reader.number()?;
        let (args, buffers) = (reader.list(Arg::read)?, reader.list(Buffer::read)?);
        Some(Self { name, kernel, ptx, entry, grid, block, shared_bytes, args, buffers })
    }
}

impl Arg {
    pub(super) fn write(&self, writer: &mut Writer) {
        match self {
            Self::Value(bytes) => {
                writer.number(0);
                writer.block(bytes);
            }
            Self::Address(buffer) => writer.number(1 + *buffer as u64),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(match reader.number()? {
            0 => Self::Value(reader.block()?.to_vec()),
            buffer => Self::Address(buffer as usize - 1),
        })
    }
}

impl Buffer {
    fn write(&self, writer: &mut Writer) {
        writer.block(&self.before);
        writer.number(self.addresses.len() as u64);
        for &(place, buffer) in &self.addresses {
            writer.number(place as u64);
            writer.number(buffer as u64);
        }
        // Nothing stands for what is as before: half of a file would be inputs again.
        writer.block(if self.after == self.before { &[] } else { &self.after });
        let (element, relative, least) = match self.exact {
            Exactness::Bits => (0, 0.0, 0.0),
            Exactness::Close { element, relative, least } => (1 + element as u64, relative, least),
        };
        writer.number(element);
        writer.number(relative.to_bits());
        writer.number(least.to_bits());
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let before = reader.block()?.to_vec();
        let addresses = reader.list(|reader| Some((reader.number()? as usize, reader.number()? as usize)))?;
        let after = reader.block().map(|after| if after.is_empty() { before.clone() } else { after.to_vec() })?;
        let element =
            [Element::F64, Element::F32, Element::F16, Element::Bf16].get((reader.number()? as usize).wrapping_sub(1));
        let (relative, least) = (f64::from_bits(reader.number()?), f64::from_bits(reader.number()?));
        let exact = element.map_or(Exactness::Bits, |&element| Exactness::Close { element, relative, least });
        Some(Self { before, addresses, after, exact })
    }
}
