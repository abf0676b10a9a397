//! Reads the running kernel's own description of its types (BTF, `/sys/kernel/btf/vmlinux`): where
//! members lie, and what tracepoints pass. It does not know what the offsets are for.
//!
//! A parser of our own, because the two at hand do not fit: aya's `Btf` keeps its types private
//! (only names can be looked up), and the crate `btf` 0.5 turns all 150,000 types into heap objects
//! to answer some thirty questions. This one walks the bytes once, keeps one offset per type, and
//! treats the file as hostile: every read is checked, every chain of types has an end.

use std::{fs, io, path::Path};

/// Why a question about the kernel's types has no answer.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The bytes are no BTF of this machine's byte order.
    #[error("this is no BTF")]
    NotBtf,
    /// The bytes end, or point, where they must not.
    #[error("the BTF is cut short or damaged")]
    Damaged,
    /// A kind of type this parser has never heard of: what follows it cannot be found.
    #[error("the BTF holds a kind of type ({0}) that is newer than this program")]
    UnknownKind(u32),
    /// The kernel has no such type.
    #[error("this kernel has no {0}")]
    NoType(String),
    /// The kernel's type has no such member.
    #[error("this kernel has no member {0}")]
    NoMember(String),
    /// The member is not made of whole bytes.
    #[error("the member {0} is a bit field on this kernel")]
    BitField(String),
}

/// Where a member lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member {
    /// Bytes from the start of the type that was asked about.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
}

/// What a function takes as one argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Argument {
    /// A pointer.
    Pointer,
    /// Anything that is not a pointer.
    Value,
}

/// A parsed BTF file.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    /// Start and length of the strings in `data`.
    strings: (usize, usize),
    /// Where each type begins in `data`; type ids begin at 1.
    types: Vec<u32>,
    /// The same of what is looked up by name, by [`shelf`]: a struct is one type in ten, and a hundred
    /// questions are about one.
    shelves: [Vec<u32>; SHELVES],
}

const MAGIC: u16 = 0xeb9f;
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

const SHELVES: usize = 4;

/// On which shelf types of `kind` are found by their names.
const fn shelf(kind: u32) -> Option<usize> {
    match kind {
        STRUCT => Some(0),
        ENUM => Some(1),
        TYPEDEF => Some(2),
        FUNC => Some(3),
        _ => None,
    }
}

/// No sound chain of typedefs, qualifiers or nested structs is longer.
const MAX_DEPTH: u32 = 32;

/// The fixed part of a type (`struct btf_type`), but for its name, the first word.
#[derive(Clone, Copy)]
struct Described {
    kind: u32,
    /// How many members, parameters or values follow.
    count: u32,
    /// The members' offsets carry a bit-field size in their upper byte.
    has_bit_fields: bool,
    /// Its size, or the type it refers to.
    size_or_id: u32,
    /// Where the variable part begins.
    body: usize,
}

impl Btf {
    /// Reads and indexes the file at `path`.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let data = fs::read(path).map_err(|source| BtfError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(data)
    }

    /// Indexes `data`.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let magic = data.get(..2).and_then(|two| two.try_into().ok());
        if magic.map(u16::from_ne_bytes) != Some(MAGIC) {
            return Err(BtfError::NotBtf);
        }
        let field = |at| u32_at(&data, at).map(widen);
        let header = field(4)?;
        let section = |offset, length| -> Result<(usize, usize), BtfError> {
            let start = header.checked_add(offset).ok_or(BtfError::Damaged)?;
            let end = start.checked_add(length).ok_or(BtfError::Damaged)?;
            if end > data.len() {
                return Err(BtfError::Damaged);
            }
            Ok((start, end))
        };
        let (mut at, types_end) = section(field(8)?, field(12)?)?;
        let (strings, strings_end) = section(field(16)?, field(20)?)?;

        let mut types = Vec::new();
        let mut shelves = [const { Vec::new() }; SHELVES];
        while at < types_end {
            let body = type_at(&data, at)?;
            let place = u32::try_from(at).map_err(|_| BtfError::Damaged)?;
            types.push(place);
            if let Some(shelf) = shelf(body.kind).and_then(|at| shelves.get_mut(at)) {
                shelf.push(place);
            }
            at = body.body + body_length(&body)?;
        }
        if at != types_end {
            return Err(BtfError::Damaged);
        }
        Ok(Self {
            strings: (strings, strings_end - strings),
            types,
            shelves,
            data,
        })
    }

    /// Where `path` (members joined by dots) lies within the struct `structure`. Members of
    /// anonymous structs and unions are found as if they were the outer one's own, as in C.
    pub fn member(&self, structure: &str, path: &str) -> Result<Member, BtfError> {
        let (offset, id) = self.place(structure, path)?;
        let size = self.size(id, 0)?;
        Ok(Member { offset, size })
    }

    /// The offset of a member whose size does not matter, or that has none, such as the array at a
    /// struct's end.
    pub fn offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        Ok(self.place(structure, path)?.0)
    }

    /// The size of the struct `structure`.
    pub fn size_of(&self, structure: &str) -> Result<u32, BtfError> {
        Ok(self.structure(structure)?.size_or_id)
    }

    fn structure(&self, name: &str) -> Result<Described, BtfError> {
        self.find(STRUCT, name)?
            .ok_or_else(|| BtfError::NoType(format!("struct {name}")))
    }

    /// Offset and type of a member.
    fn place(&self, structure: &str, path: &str) -> Result<(u32, u32), BtfError> {
        let mut of = self.structure(structure)?;
        let (mut offset, mut last) = (0, 0);
        for name in path.split('.') {
            let full = || format!("{structure}.{path}");
            let of_struct = self.resolve(of)?;
            let (id, bits, bit_field) = self
                .member_of(&of_struct, name, 0)?
                .ok_or_else(|| BtfError::NoMember(full()))?;
            if bit_field || bits % 8 != 0 {
                return Err(BtfError::BitField(full()));
            }
            offset += bits / 8;
            last = id;
            of = self.by_id(id)?;
        }
        Ok((offset, last))
    }

    /// Whether the kernel has a function `name` in its BTF.
    pub fn has_function(&self, name: &str) -> Result<bool, BtfError> {
        Ok(self.find(FUNC, name)?.is_some())
    }

    /// What the tracepoint `name` passes to a program, in order.
    pub fn tracepoint(&self, name: &str) -> Result<Vec<Argument>, BtfError> {
        let missing = || BtfError::NoType(format!("tracepoint {name}"));
        let pointer = self
            .find(TYPEDEF, &format!("btf_trace_{name}"))?
            .ok_or_else(missing)?;
        let pointer = self.resolve(pointer)?;
        if pointer.kind != PTR {
            return Err(BtfError::Damaged);
        }
        let proto = self.by_id(pointer.size_or_id)?;
        if proto.kind != FUNC_PROTO {
            return Err(BtfError::Damaged);
        }
        // The first one is the tracepoint's own data, which programs do not get.
        (1..widen(proto.count))
            .map(|index| {
                let id = u32_at(&self.data, proto.body + index * 8 + 4)?;
                Ok(match self.resolve(self.by_id(id)?)?.kind {
                    PTR => Argument::Pointer,
                    _ => Argument::Value,
                })
            })
            .collect()
    }

    /// The number that `value` has in the enum `enumeration`.
    pub fn enum_value(&self, enumeration: &str, value: &str) -> Result<u32, BtfError> {
        let of = self
            .find(ENUM, enumeration)?
            .ok_or_else(|| BtfError::NoType(format!("enum {enumeration}")))?;
        for index in 0..widen(of.count) {
            let at = of.body + index * 8;
            if self.is_named(u32_at(&self.data, at)?, value) {
                return u32_at(&self.data, at + 4);
            }
        }
        Err(BtfError::NoMember(value.to_owned()))
    }

    fn find(&self, kind: u32, name: &str) -> Result<Option<Described>, BtfError> {
        let of_kind = shelf(kind).and_then(|at| self.shelves.get(at));
        for at in of_kind.into_iter().flatten() {
            let at = widen(*at);
            if self.is_named(u32_at(&self.data, at)?, name) {
                return type_at(&self.data, at).map(Some);
            }
        }
        Ok(None)
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let (start, length) = self.strings;
        self.data
            .get(start..start + length)
            .and_then(|strings| strings.get(widen(offset)..))
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    fn by_id(&self, id: u32) -> Result<Described, BtfError> {
        let index = widen(id).checked_sub(1).ok_or(BtfError::Damaged)?;
        let at = self.types.get(index).ok_or(BtfError::Damaged)?;
        type_at(&self.data, widen(*at))
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut of: Described) -> Result<Described, BtfError> {
        for _ in 0..MAX_DEPTH {
            match of.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => {
                    of = self.by_id(of.size_or_id)?;
                }
                _ => return Ok(of),
            }
        }
        Err(BtfError::Damaged)
    }

    /// Type id, bit offset and whether it is a bit field, of the member `name`.
    fn member_of(
        &self,
        of: &Described,
        name: &str,
        depth: u32,
    ) -> Result<Option<(u32, u32, bool)>, BtfError> {
        if depth > MAX_DEPTH || !matches!(of.kind, STRUCT | UNION) {
            return Ok(None);
        }
        for index in 0..widen(of.count) {
            let at = of.body + index * 12;
            let (own_name, id) = (u32_at(&self.data, at)?, u32_at(&self.data, at + 4)?);
            let place = u32_at(&self.data, at + 8)?;
            let (bits, bit_field) = if of.has_bit_fields {
                (place & 0x00ff_ffff, place >> 24 != 0)
            } else {
                (place, false)
            };
            if own_name != 0 && self.is_named(own_name, name) {
                return Ok(Some((id, bits, bit_field)));
            }
            if self.is_named(own_name, "") {
                let inner = self.resolve(self.by_id(id)?)?;
                if let Some((id, more, bit_field)) = self.member_of(&inner, name, depth + 1)? {
                    let bits = bits.checked_add(more).ok_or(BtfError::Damaged)?;
                    return Ok(Some((id, bits, bit_field)));
                }
            }
        }
        Ok(None)
    }

    fn size(&self, id: u32, depth: u32) -> Result<u32, BtfError> {
        let of = self.resolve(self.by_id(id)?)?;
        match of.kind {
            PTR => Ok(u32::try_from(size_of::<usize>()).unwrap_or(8)),
            INT | STRUCT | UNION | ENUM | ENUM64 | FLOAT => Ok(of.size_or_id),
            ARRAY if depth < MAX_DEPTH => {
                let element = self.size(u32_at(&self.data, of.body)?, depth + 1)?;
                let count = u32_at(&self.data, of.body + 8)?;
                element.checked_mul(count).ok_or(BtfError::Damaged)
            }
            _ => Err(BtfError::Damaged),
        }
    }
}

fn type_at(data: &[u8], at: usize) -> Result<Described, BtfError> {
    let info = u32_at(data, at + 4)?;
    Ok(Described {
        kind: info >> 24 & 0x1f,
        count: info & 0xffff,
        has_bit_fields: info >> 31 == 1,
        size_or_id: u32_at(data, at + 8)?,
        body: at + 12,
    })
}

/// How many bytes follow the fixed part (Documentation/bpf/btf.rst, as of Linux 6.18).
fn body_length(of: &Described) -> Result<usize, BtfError> {
    let count = widen(of.count);
    Ok(match of.kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
        ENUM | FUNC_PROTO => 8 * count,
        PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
        unknown => return Err(BtfError::UnknownKind(unknown)),
    })
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, BtfError> {
    data.get(at..)
        .and_then(|rest| rest.first_chunk())
        .map(|four| u32::from_ne_bytes(*four))
        .ok_or(BtfError::Damaged)
}

const fn widen(number: u32) -> usize {
    number as usize
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;
