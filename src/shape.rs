//! Shapes: the sizes of a tensor's dimensions, outermost first, always contiguous.

/// Up to [`Shape::MAX_RANK`] dimensions, stored inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; Self::MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The largest number of dimensions.
    pub const MAX_RANK: usize = 4;

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// The number of elements; 1 for a scalar.
    pub fn numel(&self) -> usize {
        self.dims().iter().product()
    }

    /// The innermost size; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The number of rows when all but the innermost dimension are flattened.
    pub fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Self {
        const { assert!(N <= Self::MAX_RANK) };
        let mut dims = [1; Self::MAX_RANK];
        dims[..N].copy_from_slice(&sizes);
        Self { dims, rank: N }
    }
}

impl TryFrom<&[usize]> for Shape {
    type Error = crate::error::Error;

    fn try_from(sizes: &[usize]) -> crate::error::Result<Self> {
        let mut dims = [1; Self::MAX_RANK];
        let Some(prefix) = dims.get_mut(..sizes.len()) else {
            let detail = format!("at most {} dimensions are supported, got {sizes:?}", Self::MAX_RANK);
            return Err(crate::error::Error::shape("shape", detail));
        };
        prefix.copy_from_slice(sizes);
        Ok(Self { dims, rank: sizes.len() })
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}
