//! Tensors that are cut among several files, and read again in any other cut.
//!
//! Each file is one of safetensors, with a row of f32 for each slice under the name of the tensor that it is of. The entry
//! `slices` of its metadata is a JSON object: by name, the `offset` of the slice in elements and the `shape` of the whole. A
//! tensor that it does not name is whole, so a file without slices is read alike.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mmap::MappedFile;
use super::safetensors::{read_metadata, write_with};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// The name of the metadata's entry.
const ENTRY: &str = "slices";

/// A part of a tensor, f32.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The name of the tensor.
    pub name: String,
    /// The elements of it that come before this part.
    pub offset: usize,
    /// The shape of the tensor.
    pub shape: Shape,
    /// The part, as a row.
    pub values: Tensor,
}

/// Where a slice lies in its tensor.
#[derive(Serialize, Deserialize)]
struct Place {
    offset: usize,
    shape: Vec<usize>,
}

/// Writes slices of different tensors into the file `path`, which is synced to disk.
///
/// # Errors
/// [`Error::File`] if the disk fails.
pub fn write(path: &Path, slices: &[Slice]) -> Result<()> {
    let place = |slice: &Slice| Place { offset: slice.offset, shape: slice.shape.dims().to_vec() };
    let places: BTreeMap<&str, Place> = slices.iter().map(|slice| (&slice.name[..], place(slice))).collect();
    let places = serde_json::to_string(&places).map_err(|e| Error::file(path, e.to_string()))?;
    let values: BTreeMap<&str, &Tensor> = slices.iter().map(|slice| (&slice.name[..], &slice.values)).collect();
    let layout = slices.iter().map(|slice| (slice.name.clone(), (DType::F32, slice.values.shape()))).collect();
    write_with(path, &[(ENTRY, places)], &layout, |name| Ok(values[name].clone()))
}

/// The tensors of a folder's files of safetensors, each whole in one of them or cut among several.
#[derive(Debug)]
pub struct Slices {
    folder: PathBuf,
    files: Vec<(PathBuf, MappedFile)>,
    tensors: BTreeMap<String, Cut>,
}

/// A tensor and what there is of it.
#[derive(Debug)]
struct Cut {
    shape: Vec<usize>,
    stored: Vec<Stored>,
}

/// Where some elements of a tensor are: the number of the file, and the bytes in it.
#[derive(Debug)]
struct Stored {
    elements: Range<usize>,
    file: usize,
    bytes: Range<usize>,
}

impl Slices {
    /// Maps the files of `folder`.
    ///
    /// # Errors
    /// [`Error::File`] if one cannot be read, or if two do not agree on a tensor's shape.
    pub fn open(folder: &Path) -> Result<Self> {
        let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        paths.sort();
        let mut opened = Self { folder: folder.into(), files: Vec::new(), tensors: BTreeMap::new() };
        paths.into_iter().try_for_each(|path| opened.add(path))?;
        opened.tensors.values_mut().for_each(|cut| cut.stored.sort_by_key(|stored| stored.elements.start));
        Ok(opened)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let file = MappedFile::open(&path)?;
        let (metadata, start) = read_metadata(&path, file.bytes())?;
        let mut places: BTreeMap<String, Place> = match metadata.metadata().as_ref().and_then(|notes| notes.get(ENTRY))
        {
            Some(text) => serde_json::from_str(text).map_err(|e| Error::file(&path, format!("its {ENTRY}: {e}")))?,
            None => BTreeMap::new(),
        };
        for (name, info) in metadata.tensors() {
            let whole = || Place { offset: 0, shape: info.shape.clone() };
            let Place { offset, shape } = places.remove(&name).unwrap_or_else(whole);
            let cut =
                self.tensors.entry(name.clone()).or_insert_with(|| Cut { shape: shape.clone(), stored: Vec::new() });
            if cut.shape != shape {
                let detail = format!("tensor {name} is {shape:?}, in another file {:?}", cut.shape);
                return Err(Error::file(&path, detail));
            }
            let elements = offset..offset.saturating_add(info.shape.iter().product());
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            cut.stored.push(Stored { elements, file: self.files.len(), bytes });
        }
        self.files.push((path, file));
        Ok(())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor, or its shape is none of ours.
    pub fn shape(&self, name: &str) -> Result<Shape> {
        let refuse = |detail: String| Error::file(&self.folder, format!("tensor {name} {detail}"));
        let cut = self.tensors.get(name).ok_or_else(|| refuse("is missing".into()))?;
        Shape::try_from(&cut.shape[..]).map_err(|e| refuse(e.to_string()))
    }

    /// These `elements` of the f32 tensor `name`, of that `shape`, as a row on the CPU. No other bytes are read.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor, or not all of them.
    pub fn read(&self, name: &str, shape: Shape, elements: Range<usize>) -> Result<Tensor> {
        let refuse = |detail: String| Error::file(&self.folder, format!("tensor {name} {detail}"));
        let Cut { shape: found, stored } = self.tensors.get(name).ok_or_else(|| refuse("is missing".into()))?;
        if found != shape.dims() {
            return Err(refuse(format!("must be {shape}, got {found:?}")));
        }
        let mut values = Tensor::uninit(&Device::Cpu, DType::F32, [elements.len()])?;
        let into = values.buffer_mut()?.host_mut()?;
        let mut at = elements.start;
        for Stored { elements: here, file, bytes } in stored {
            let end = here.end.min(elements.end);
            if here.contains(&at) && at < end {
                let size = DType::F32.size();
                let wanted = bytes.start + (at - here.start) * size..bytes.start + (end - here.start) * size;
                let (_, file) = &self.files[*file];
                let target = into.get_mut((at - elements.start) * size..(end - elements.start) * size);
                let source = file.bytes().get(wanted.clone()).filter(|_| bytes.len() == here.len() * size);
                let (target, source) = target.zip(source).ok_or_else(|| refuse("is not of f32".into()))?;
                target.copy_from_slice(source);
                file.release(wanted);
                at = end;
            }
        }
        if at < elements.end {
            return Err(refuse(format!("lacks its elements from {at} on")));
        }
        Ok(values)
    }
}
