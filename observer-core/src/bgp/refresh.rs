//! ROUTE-REFRESH (RFC 2918 §3) and its demarcations (RFC 7313 §3.2).

use super::{DecodeError, DecodeErrorKind, Family, HEADER_LENGTH, cursor::Cursor};

/// A ROUTE-REFRESH.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteRefresh<'a> {
    /// Which routes.
    pub family: Family,
    /// What is said about them.
    pub kind: RefreshKind,
    /// Outbound route filters (RFC 5291), as sent.
    pub filters: &'a [u8],
}

/// Subtypes of RFC 7313 §3.2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefreshKind {
    /// 0: send them again.
    Request,
    /// 1: they begin.
    Begin,
    /// 2: they are complete.
    End,
    /// Reserved; to be ignored.
    Other(u8),
}

impl<'a> RouteRefresh<'a> {
    /// Reads what follows the header.
    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body, HEADER_LENGTH);
        let mut fixed = || Some((cursor.u16()?, cursor.u8()?, cursor.u8()?));
        let Some((afi, subtype, safi)) = fixed() else {
            return Err(DecodeError::at(DecodeErrorKind::RefreshLength, 16));
        };
        let kind = match subtype {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            other => RefreshKind::Other(other),
        };
        let filters = cursor.rest();
        // RFC 7313 §5: a demarcation is four octets, no more.
        if !filters.is_empty() && matches!(kind, RefreshKind::Begin | RefreshKind::End) {
            return Err(DecodeError::at(DecodeErrorKind::RefreshLength, 16));
        }
        Ok(Self {
            family: Family::new(afi, safi),
            kind,
            filters,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtypes_and_lengths() {
        let decode = |body: &'static [u8]| RouteRefresh::decode(body).map(|refresh| refresh.kind);
        assert_eq!(decode(&[0, 1, 0, 1]), Ok(RefreshKind::Request));
        assert_eq!(decode(&[0, 2, 1, 1]), Ok(RefreshKind::Begin));
        assert_eq!(decode(&[0, 2, 2, 1]), Ok(RefreshKind::End));
        assert_eq!(decode(&[0, 2, 9, 1]), Ok(RefreshKind::Other(9)));
        assert_eq!(decode(&[0, 1, 0, 1, 1, 2]), Ok(RefreshKind::Request));
        assert!(decode(&[0, 1, 1, 1, 1]).is_err());
        assert!(decode(&[0, 1, 1]).is_err());
    }
}
