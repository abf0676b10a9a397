//! A reading position in borrowed bytes that cannot leave them.

/// The unread rest of a field, and how far its start lies inside the message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// `bytes` begin `offset` octets into the message.
    pub(crate) const fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    /// Octets from the message's first to the next unread one.
    pub(crate) const fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is unread.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next `count` octets; nothing is consumed when there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        self.offset += count;
        Some(taken)
    }

    /// The next `count` octets as a cursor of their own.
    pub(crate) fn sub(&mut self, count: usize) -> Option<Self> {
        let offset = self.offset;
        Some(Self::new(self.take(count)?, offset))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        self.offset += N;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[value]| value)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
}
