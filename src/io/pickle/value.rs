//! What a pickle of torch.save holds: plain values, and tensors as views of storages.

use std::collections::BTreeMap;

use safetensors::Dtype;

use crate::shape::Shape;

/// A value. Containers, storages and tensors lie in a [`Heap`], under their numbers: they may be shared, or contain
/// each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: two's complement, the lowest byte first.
    Long(&'a [u8]),
    Float,
    Text(&'a str),
    Bytes,
    Global(Global),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

impl Value<'_> {
    /// What it is, in words.
    pub fn kind(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::Long(_) => "an integer",
            Self::Float => "a float",
            Self::Text(_) => "a string",
            Self::Bytes => "bytes",
            Self::Global(_) => "a class or function",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// A class or function of Python that pickles of weights name. None is ever called: each stands for what it would make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    /// Makes a tensor with attributes: of [`Global::Tensor`], as other classes are not known.
    RebuildFromType,
    Tensor,
    Storage(Dtype),
}

impl Global {
    /// The global `name` of a module, if it is one of them.
    pub fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Self::Tensor,
            ("torch", name) => Self::Storage(storage_dtype(name.strip_suffix("Storage")?)?),
            _ => return None,
        })
    }
}

fn storage_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Double" => Dtype::F64,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::BOOL,
        _ => return None,
    })
}

/// A run of elements, which tensors are views of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storage<'a> {
    /// Its name in the file.
    pub key: &'a str,
    pub dtype: Dtype,
    pub numel: usize,
}

impl Storage<'_> {
    /// Bytes per element.
    pub fn element(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Its length, if that is a number at all.
    pub fn bytes(&self) -> Option<usize> {
        self.numel.checked_mul(self.element())
    }
}

/// A view of a storage, which holds all its elements. Offset and strides count elements.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    pub storage: usize,
    pub offset: usize,
    pub shape: Shape,
    strides: [usize; Shape::MAX_RANK],
}

/// An expanded tensor, which repeats elements of its storage, may have this many; more would cost memory that the
/// file does not.
const MAX_EXPANDED: usize = 1 << 20;

impl Tensor {
    /// A view of `storage`, whose number is `at`.
    ///
    /// # Errors
    /// What is wrong with it: another number of strides than of dimensions, too many of them, or elements that the
    /// storage does not have.
    pub fn new(
        (at, storage): (usize, &Storage),
        offset: usize,
        dims: &[usize],
        strides: &[usize],
    ) -> Result<Self, String> {
        let shape = Shape::try_from(dims).map_err(|e| e.to_string())?;
        if strides.len() != dims.len() {
            return Err(format!("has {} dimensions and {} strides", dims.len(), strides.len()));
        }
        let mut padded = [1; Shape::MAX_RANK];
        padded[..strides.len()].copy_from_slice(strides);
        let tensor = Self { storage: at, offset, shape, strides: padded };
        let count = dims.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let inside = count.is_some_and(|count| count == 0 || tensor.last().is_some_and(|last| last < storage.numel));
        if !inside {
            let detail = format!("{dims:?} with strides {strides:?} from {offset} on");
            return Err(format!("takes {detail} of storage {}, which has {} elements", storage.key, storage.numel));
        }
        match count.filter(|&count| count > storage.numel.max(MAX_EXPANDED)) {
            Some(count) => Err(format!("repeats {} stored elements to {count}", storage.numel)),
            None => Ok(tensor),
        }
    }

    /// Elements from one to the next of each dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.dims().len()]
    }

    /// The place of its last element in the storage. It has one.
    pub fn last(&self) -> Option<usize> {
        let mut axes = self.shape.dims().iter().zip(&self.strides);
        axes.try_fold(self.offset, |last, (&size, &stride)| last.checked_add(size.checked_sub(1)?.checked_mul(stride)?))
    }

    /// Whether its elements follow each other, row by row.
    pub fn is_contiguous(&self) -> bool {
        let (mut expected, mut axes) = (1, self.shape.dims().iter().zip(&self.strides).rev());
        let mut follows = |(&size, &stride): (&usize, &usize)| {
            let follows = size == 1 || stride == expected;
            expected *= size;
            follows
        };
        self.shape.numel() == 0 || axes.all(&mut follows)
    }
}

/// The containers, storages and tensors of a pickle.
#[derive(Debug, Default)]
pub struct Heap<'a> {
    sequences: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<Tensor>,
    numbers: BTreeMap<&'a str, usize>,
}

impl<'a> Heap<'a> {
    /// A new tuple or list of `values`.
    pub fn add_sequence(&mut self, values: Vec<Value<'a>>) -> usize {
        self.sequences.push(values);
        self.sequences.len() - 1
    }

    /// A new empty dict.
    pub fn add_dict(&mut self) -> usize {
        self.dicts.push(Vec::new());
        self.dicts.len() - 1
    }

    /// The number of a storage, new or known; `None` if its key is known for another one.
    pub fn add_storage(&mut self, storage: Storage<'a>) -> Option<usize> {
        let at = *self.numbers.entry(storage.key).or_insert(self.storages.len());
        if at == self.storages.len() {
            self.storages.push(storage);
        }
        (self.storages[at] == storage).then_some(at)
    }

    /// A new tensor.
    pub fn add_tensor(&mut self, tensor: Tensor) -> usize {
        self.tensors.push(tensor);
        self.tensors.len() - 1
    }

    /// The elements of a tuple or list.
    pub fn sequence(&self, at: usize) -> &[Value<'a>] {
        &self.sequences[at]
    }

    /// The elements of a list, to add to.
    pub fn sequence_mut(&mut self, at: usize) -> &mut Vec<Value<'a>> {
        &mut self.sequences[at]
    }

    /// The entries of a dict in their order.
    pub fn dict(&self, at: usize) -> &[(Value<'a>, Value<'a>)] {
        &self.dicts[at]
    }

    /// The entries of a dict, to add to.
    pub fn dict_mut(&mut self, at: usize) -> &mut Vec<(Value<'a>, Value<'a>)> {
        &mut self.dicts[at]
    }

    /// All storages.
    pub fn storages(&self) -> &[Storage<'a>] {
        &self.storages
    }

    /// The number of the storage `key`.
    pub fn storage_of(&self, key: &str) -> Option<usize> {
        self.numbers.get(key).copied()
    }

    /// A tensor.
    pub fn tensor(&self, at: usize) -> &Tensor {
        &self.tensors[at]
    }
}
