//! The few DER moves (X.690) that the libraries do not offer: taking a structure apart and putting it together again.

/// One element: its tag, its content and the whole of it, header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// The only element of `input`, or `None` if it is cut off, not DER, or followed by more.
pub(crate) fn only(input: &[u8]) -> Option<Element<'_>> {
    let (element, rest) = first(input)?;
    rest.is_empty().then_some(element)
}

/// All elements of `input` (the content of a SEQUENCE, for example), or `None` if it is not DER up to its end.
pub(crate) fn elements(mut input: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    while !input.is_empty() {
        let (element, rest) = first(input)?;
        elements.push(element);
        input = rest;
    }
    Some(elements)
}

/// An element with `tag` around the concatenated `parts`.
pub(crate) fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = Vec::with_capacity(length + 6);
    der.push(tag);
    if length < 0x80 {
        der.extend(u8::try_from(length));
    } else {
        let bytes = length.to_be_bytes();
        let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        der.push(0x80 | significant.len().to_le_bytes()[0]);
        der.extend_from_slice(significant);
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

fn first(input: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    if tag & 0x1f == 0x1f {
        return None; // multi-byte tags do not occur in what we take apart
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count || rest[0] == 0 {
            return None;
        }
        let (bytes, rest) = rest.split_at(count);
        let length = bytes.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
        if length < 0x80 {
            return None;
        }
        (length, rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((Element { tag, content, whole: &input[..input.len() - after.len()] }, after))
}

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const SEQUENCE: u8 = 0x30;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_taken_apart_again(parts in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..300), 0..4)) {
            let inner: Vec<Vec<u8>> = parts.iter().map(|part| encode(OCTET_STRING, &[part])).collect();
            let slices: Vec<&[u8]> = inner.iter().map(Vec::as_slice).collect();
            let outer = encode(SEQUENCE, &slices);
            let element = only(&outer).unwrap();
            prop_assert_eq!(element.tag, SEQUENCE);
            let read = elements(element.content).unwrap();
            prop_assert_eq!(read.iter().map(|e| e.content.to_vec()).collect::<Vec<_>>(), parts);
        }

        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = only(&bytes);
            let _ = elements(&bytes);
        }
    }

    #[test]
    fn cut_off_trailing_and_non_minimal_elements_are_refused() {
        assert_eq!(only(&[0x30, 0x02, 0x05]), None);
        assert_eq!(only(&[0x05, 0x00, 0x00]), None);
        assert_eq!(only(&[0x04, 0x81, 0x01, 0xff]), None);
        assert_eq!(only(&[0x04, 0x80, 0x00, 0x00]), None);
    }
}
