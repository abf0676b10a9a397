use super::*;

/// Writes BTF as a kernel would.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Writer {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn add(&mut self, name: &str, kind: u32, count: u32, size_or_id: u32, body: &[u32]) {
        let name = self.name(name);
        for word in [name, kind << 24 | count, size_or_id].iter().chain(body) {
            self.types.extend(word.to_ne_bytes());
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let (types, strings) = (
            u32::try_from(self.types.len()).unwrap(),
            u32::try_from(self.strings.len()).unwrap(),
        );
        for word in [24, 0, types, types, strings] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

/// ```c
/// typedef unsigned int u32;                        // 1, 2
/// struct net { char pad[8]; u32 inum; };           // 3 array, 4
/// struct sock {                                    // 6, in it 5 (anonymous union)
///     struct net *net;                             // 7
///     union { u32 daddr; const u32 other; };       // 8 const
///     struct net own;
///     unsigned int flags: 3;
/// };
/// void probe(void *, struct sock *, int);          // 9 proto, 10 pointer, 11 typedef
/// u64 helper();                                    // 12 func
/// ```
fn fixture() -> Vec<u8> {
    let mut btf = Writer::default();
    btf.add("unsigned int", INT, 0, 4, &[32]);
    btf.add("u32", TYPEDEF, 0, 1, &[]);
    btf.add("", ARRAY, 0, 0, &[1, 1, 2]);
    let (pad, inum) = (btf.name("pad"), btf.name("inum"));
    btf.add("net", STRUCT, 2, 12, &[pad, 3, 0, inum, 2, 64]);
    let (daddr, other) = (btf.name("daddr"), btf.name("other"));
    btf.add("", UNION, 2, 4, &[daddr, 2, 0, other, 8, 0]);
    let (net, own, flags) = (btf.name("net"), btf.name("own"), btf.name("flags"));
    btf.add(
        "sock",
        STRUCT | 0x80,
        4,
        28,
        &[net, 7, 0, 0, 5, 64, own, 4, 96, flags, 1, 3 << 24 | 0xc0],
    );
    btf.add("", PTR, 0, 4, &[]);
    btf.add("", CONST, 0, 2, &[]);
    btf.add("", FUNC_PROTO, 3, 0, &[0, 7, 0, 7, 0, 2]);
    btf.add("", PTR, 0, 9, &[]);
    btf.add("btf_trace_probe", TYPEDEF, 0, 10, &[]);
    btf.add("helper", FUNC, 0, 9, &[]);
    btf.bytes()
}

#[test]
fn members_are_found_through_anonymous_unions_and_paths() {
    let btf = Btf::parse(fixture()).unwrap();
    let member = |path| btf.member("sock", path).unwrap();
    assert_eq!(member("net"), Member { offset: 0, size: 8 });
    assert_eq!(member("daddr"), Member { offset: 8, size: 4 });
    assert_eq!(member("other"), Member { offset: 8, size: 4 });
    assert_eq!(
        member("own.pad"),
        Member {
            offset: 12,
            size: 8
        }
    );
    assert_eq!(
        member("own.inum"),
        Member {
            offset: 20,
            size: 4
        }
    );
}

#[test]
fn what_is_missing_is_named() {
    let btf = Btf::parse(fixture()).unwrap();
    let error = |structure, path| btf.member(structure, path).unwrap_err().to_string();
    assert_eq!(error("sock", "gone"), "this kernel has no member sock.gone");
    assert_eq!(
        error("sock", "own.gone"),
        "this kernel has no member sock.own.gone"
    );
    assert_eq!(error("pipe", "x"), "this kernel has no struct pipe");
    assert_eq!(
        error("sock", "flags"),
        "the member sock.flags is a bit field on this kernel"
    );
    // A pointer is not followed: what it points to lies elsewhere.
    assert_eq!(
        error("sock", "net.inum"),
        "this kernel has no member sock.net.inum"
    );
    // A name that another only begins with is another name.
    assert!(btf.member("soc", "net").is_err());
}

#[test]
fn tracepoints_tell_their_arguments_and_functions_their_existence() {
    let btf = Btf::parse(fixture()).unwrap();
    assert_eq!(
        btf.tracepoint("probe").unwrap(),
        [Argument::Pointer, Argument::Value]
    );
    assert_eq!(
        btf.tracepoint("other").unwrap_err().to_string(),
        "this kernel has no tracepoint other"
    );
    assert!(btf.has_function("helper").unwrap());
    assert!(!btf.has_function("probe").unwrap());
}

fn ask_everything(bytes: Vec<u8>) {
    if let Ok(btf) = Btf::parse(bytes) {
        for path in ["net", "daddr", "own.inum", "flags", "gone"] {
            let _ = btf.member("sock", path);
        }
        let _ = btf.tracepoint("probe");
        let _ = btf.has_function("helper");
    }
}

#[test]
fn no_cut_panics() {
    let whole = fixture();
    for length in 0..whole.len() {
        assert!(Btf::parse(whole[..length].to_vec()).is_err());
    }
}

#[test]
fn no_damaged_byte_panics_or_hangs() {
    let whole = fixture();
    for at in 0..whole.len() {
        for value in [0, 1, 2, 4, 7, 0x7f, 0x80, 0xff, whole[at] ^ 1] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            ask_everything(damaged);
        }
    }
}

#[test]
fn types_that_refer_to_themselves_come_to_an_end() {
    let mut btf = Writer::default();
    btf.add("loop", TYPEDEF, 0, 1, &[]);
    let name = btf.name("x");
    btf.add("sock", STRUCT, 2, 8, &[0, 2, 0, name, 1, 0]);
    btf.add("btf_trace_probe", TYPEDEF, 0, 1, &[]);
    let btf = Btf::parse(btf.bytes()).unwrap();
    assert!(matches!(btf.member("sock", "x"), Err(BtfError::Damaged)));
    assert!(matches!(btf.tracepoint("probe"), Err(BtfError::Damaged)));
}

#[test]
fn other_files_are_told_apart() {
    assert!(matches!(Btf::parse(Vec::new()), Err(BtfError::NotBtf)));
    assert!(matches!(
        Btf::parse(b"\x7fELF".to_vec()),
        Err(BtfError::NotBtf)
    ));
    let error = Btf::read(Path::new("/nonexistent")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nonexistent");
}
