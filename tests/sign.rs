//! `proplet keygen`, `sign` and `verify` as a user meets them, and with wasmsign2 as a peer.

use proplet::module::signature::SIGNATURES_MAX;
use std::{
    fs,
    io::Cursor,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};
use wasmsign2::{KeyPair, Module, PublicKey, SecretKey, Section, SectionLike as _};

const ADD: &str = r#"(module (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))"#;

/// A directory that goes with its owner, and in which commands run.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sign-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).expect("the target directory can be written");
        let folder = Self(path);
        folder.write("add.wat", ADD);
        folder
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), content).expect("the folder can be written");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn proplet(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_proplet"))
            .args(args)
            .current_dir(&self.0)
            .env_clear()
            .output()
            .expect("the binary runs")
    }

    /// Its output, a line.
    fn run(&self, args: &[&str]) -> String {
        let output = self.proplet(args);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        assert!(stderr.is_empty(), "{args:?}: {stderr}");
        let line = stdout.strip_suffix('\n').expect("a line");
        line.to_owned()
    }

    fn fail(&self, args: &[&str], words: &str) {
        let output = self.proplet(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
        assert!(
            stderr.contains(words),
            "{args:?}: no '{words}' in: {stderr}"
        );
        assert!(
            output.stdout.is_empty(),
            "{args:?}: {}",
            text(&output.stdout)
        );
    }

    fn verify(&self, module: &str, keys: &str) {
        let said = self.run(&["verify", module, "--trusted-keys", keys]);
        assert_eq!(said, format!("{module}: a trusted key has signed it"));
    }

    fn refuse(&self, module: &str, keys: &str, words: &str) {
        self.fail(&["verify", module, "--trusted-keys", keys], words);
    }

    /// A pair of the peer's, as the files `NAME.key` and `NAME.pub`.
    fn peer(&self, name: &str) -> KeyPair {
        let pair = KeyPair::generate();
        self.write(&format!("{name}.key"), pair.sk.to_bytes());
        self.write(&format!("{name}.pub"), pair.pk.to_bytes());
        pair
    }

    /// The public key of our pair, as the peer reads it from the secret file.
    fn our_public_key(&self, file: &str) -> PublicKey {
        let secret = SecretKey::from_bytes(&self.read(file)).expect("the peer reads our key");
        PublicKey {
            pk: secret.sk.public_key(),
            key_id: None,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Files that are left lie in Cargo's own directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is UTF-8")
}

fn peer_reads(module: &[u8]) -> Module {
    Module::deserialize(&mut Cursor::new(module)).expect("a module")
}

fn peer_writes(module: &Module) -> Vec<u8> {
    let mut bytes = vec![];
    module.serialize(&mut bytes).expect("memory takes it");
    bytes
}

fn peer_accepts(key: &PublicKey, module: &[u8]) -> bool {
    key.verify(&mut Cursor::new(module), None).is_ok()
}

fn sections(module: &[u8]) -> usize {
    peer_reads(module).sections.len()
}

#[test]
fn a_key_signs_and_its_public_key_verifies() {
    let folder = Folder::new();
    let key = folder.run(&["keygen"]);
    assert_eq!(key.len(), 44, "base64 of 32 bytes, not {key}");
    let signed = folder.run(&["sign", "add.wat", "--key", "signing.key"]);
    assert_eq!(signed, "add.signed.wasm");
    folder.verify(&signed, &key);
    let result = folder.run(&["run", &signed, "--export", "add", "20", "22"]);
    assert_eq!(result, "42", "a signed module is a module");

    let other = folder.run(&["keygen", "--output", "other.key"]);
    assert_ne!(key, other);
    folder.refuse(&signed, &other, "no trusted key has signed the module");
    folder.verify(&signed, &format!("{other},{key}"));
    folder.refuse("add.wat", &key, "module is not signed");

    // A public key in a file, as text with others.
    folder.write("keys.txt", format!("{other}\n{key}\n"));
    folder.verify(&signed, "keys.txt");
    let mut altered = folder.read(&signed);
    *altered.last_mut().expect("it has bytes") ^= 1;
    folder.write("altered.wasm", altered);
    folder.refuse("altered.wasm", &key, "bytes are not what was signed");
}

#[test]
fn a_secret_key_is_the_owner_s_and_not_overwritten() {
    let folder = Folder::new();
    folder.run(&["keygen", "--output", "a.key"]);
    let before = folder.read("a.key");
    let metadata = fs::metadata(folder.0.join("a.key")).expect("the key's file");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    folder.fail(&["keygen", "--output", "a.key"], "a.key can't be made");
    assert_eq!(folder.read("a.key"), before);
}

#[test]
fn the_peer_accepts_what_we_sign() {
    let folder = Folder::new();
    folder.run(&["keygen"]);
    let ours = folder.our_public_key("signing.key");
    let signed = folder.run(&["sign", "add.wat", "--key", "signing.key"]);
    let module = folder.read(&signed);
    assert!(peer_accepts(&ours, &module));
    assert!(!peer_accepts(&KeyPair::generate().pk, &module));

    let peer = folder.peer("peer");
    folder.run(&["sign", "add.wat", "--key", "peer.key", "--output", "b.wasm"]);
    assert!(peer_accepts(&peer.pk, &folder.read("b.wasm")));
    folder.verify("b.wasm", "peer.pub");
}

#[test]
fn we_accept_what_the_peer_signs() {
    let folder = Folder::new();
    let (one, two) = (folder.peer("one"), folder.peer("two"));
    let wasm = wat::parse_str(ADD).expect("a module");
    let simple = one.sk.sign(peer_reads(&wasm), None).expect("signed");
    folder.write("simple.wasm", peer_writes(&simple));
    folder.verify("simple.wasm", "one.pub");
    folder.refuse("simple.wasm", "two.pub", "no trusted key");

    // As its command line signs: with key ids, one after the other; in parts, too.
    let mut count = 0;
    let parts = peer_reads(&wasm).split(|_| {
        count += 1;
        count <= 2
    });
    for module in [peer_reads(&wasm), parts.expect("it has sections")] {
        let mut module = module;
        for pair in [&one, &two] {
            let key = pair.pk.clone().attach_default_key_id();
            let signed = pair.sk.sign_multi(module, key.key_id(), false, false);
            module = signed.expect("signed").0;
        }
        folder.write("multi.wasm", peer_writes(&module));
        folder.verify("multi.wasm", "one.pub");
        folder.verify("multi.wasm", "two.pub");
    }
    let is_delimiter = |section: &Section| section.is_signature_delimiter();
    let mut cut = peer_reads(&folder.read("multi.wasm"));
    let first = cut.sections.iter().position(is_delimiter);
    cut.sections.truncate(first.expect("two parts") + 1);
    folder.write("cut.wasm", peer_writes(&cut));
    folder.refuse("cut.wasm", "one.pub", "bytes are not what was signed");
}

#[test]
fn signing_again_adds_and_what_does_not_fit_goes() {
    let folder = Folder::new();
    let (one, two) = (folder.peer("one"), folder.peer("two"));
    let sign = |module: &str, key: &str, output: &str| {
        folder.run(&["sign", module, "--key", key, "--output", output]);
        folder.read(output)
    };
    let unsigned = wat::parse_str(ADD).expect("a module");
    let first = sign("add.wat", "one.key", "a.wasm");
    // In place, and by a second key.
    let both = sign("a.wasm", "two.key", "a.wasm");
    assert_eq!(sections(&both), sections(&unsigned) + 1);
    for pair in [&one, &two] {
        assert!(peer_accepts(&pair.pk, &both));
    }
    folder.verify("a.wasm", "one.pub");
    folder.verify("a.wasm", "two.pub");
    // The same key again adds nothing.
    assert_eq!(sign("a.wasm", "two.key", "b.wasm"), both);

    // Over the peer's parts, whose hashes are more.
    let parts = peer_reads(&unsigned).split(|section| u8::from(section.id()) < 7);
    let parts = one.sk.sign_multi(parts.expect("parts"), None, false, false);
    folder.write("parts.wasm", peer_writes(&parts.expect("signed").0));
    sign("parts.wasm", "two.key", "parts.wasm");
    folder.verify("parts.wasm", "one.pub");
    folder.verify("parts.wasm", "two.pub");

    // Of other bytes: the new signature alone is left.
    let mut altered = first.clone();
    *altered.last_mut().expect("it has bytes") ^= 1;
    folder.write("altered.wasm", altered);
    let fresh = sign("altered.wasm", "two.key", "altered.wasm");
    assert_eq!(fresh.len(), first.len());
    folder.verify("altered.wasm", "two.pub");
    folder.refuse("altered.wasm", "one.pub", "no trusted key");
}

#[test]
fn no_more_signatures_than_a_proplet_takes() {
    let folder = Folder::new();
    folder.write("a.wasm", wat::parse_str(ADD).expect("a module"));
    let again = ["sign", "a.wasm", "--key", "more.key", "--output", "a.wasm"];
    for _ in 0..SIGNATURES_MAX {
        folder.peer("more");
        folder.run(&again);
        folder.verify("a.wasm", "more.pub");
    }
    folder.peer("more");
    folder.fail(&again, "8 signatures already");
}

#[test]
fn what_can_t_be_used_is_told() {
    let folder = Folder::new();
    let key = folder.run(&["keygen"]);
    let sign = |module, key| ["sign", module, "--key", key];
    folder.fail(&sign("none.wasm", "signing.key"), "none.wasm");
    folder.fail(&sign("add.wat", "none.key"), "none.key");
    folder.fail(&sign("add.wat", "add.wat"), "no secret key");
    folder.write("short.key", &folder.read("signing.key")[..64]);
    folder.fail(&sign("add.wat", "short.key"), "64 bytes: expected 65");
    let mut damaged = folder.read("signing.key");
    damaged[64] ^= 1;
    folder.write("damaged.key", damaged);
    folder.fail(&sign("add.wat", "damaged.key"), "is damaged");
    folder.write("text.wasm", "nonsense");
    folder.fail(&sign("text.wasm", "signing.key"), "is no module");
    folder.write("cut.wasm", b"\0asm\x01\0\0\0\x01\x05");
    folder.fail(&sign("cut.wasm", "signing.key"), "section at byte 8");
    assert!(!folder.0.join("add.signed.wasm").exists());

    folder.run(&sign("add.wat", "signing.key"));
    let signed = "add.signed.wasm";
    folder.refuse(signed, "", "no trusted key");
    folder.refuse(signed, "nonsense", "'nonsense' of 8 bytes is no public key");
    folder.refuse(signed, &format!("{key} add.wat"), "add.wat has no keys");
    folder.refuse(signed, &key[..43], "44 characters of base64");
    folder.write("empty.pub", "");
    folder.write("blank.pub", " ,\n");
    for none in ["empty.pub", "blank.pub"] {
        let words = format!("{none} has no keys: there is no public key in it");
        folder.refuse(signed, none, &words);
        // One that is missing is not made good by another.
        folder.refuse(signed, &format!("{key},{none}"), &words);
    }
    folder.refuse(signed, ",", "',' has no keys");
}
