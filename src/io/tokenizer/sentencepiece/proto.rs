//! Protocol buffers: the fields of a message, in their order.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

/// A field's value as it is stored.
pub(super) enum Wire<'a> {
    /// A varint: a whole number, a truth value, or an enum.
    Number(u64),
    /// 32 bits: a float.
    Fixed(u32),
    /// A string, bytes, or a message.
    Bytes(&'a [u8]),
}

impl Wire<'_> {
    /// Whether a flag is set.
    pub fn is_true(&self) -> bool {
        matches!(self, Self::Number(number) if *number != 0)
    }
}

/// Hands the number and the value of each field of `message` to `take`; `None` if either finds the message broken.
pub(super) fn each_field<'a>(mut message: &'a [u8], mut take: impl FnMut(u64, Wire<'a>) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => take(key >> 3, Wire::Number(varint(&mut message)?))?,
            1 => drop(message.split_off(..8)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                take(key >> 3, Wire::Bytes(message.split_off(..length)?))?;
            }
            5 => take(key >> 3, Wire::Fixed(u32::from_le_bytes(message.split_off(..4)?.try_into().ok()?)))?,
            _ => return None,
        }
    }
    Some(())
}

/// A number in groups of 7 bits, lowest first; all bytes but the last have their top bit set.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(number);
        }
    }
    None
}
