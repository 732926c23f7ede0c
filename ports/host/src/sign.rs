//! `proplet keygen`, `sign` and `verify`: signed modules, as `wasmsign2` makes and reads them.

use crate::{cli, module::load};
use anyhow::{Context as _, Result, anyhow, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_compact::{KeyPair, SecretKey, Seed};
use proplet::module::{
    signature::{self, DOMAIN, ED25519, HEADER, PublicKey, SIGNATURES_MAX, Signature, Trust},
    table::{Digest, digest},
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};
use wasm_encoder::{CustomSection, Encode as _, Section as _};

/// Begins a file of a secret key; its seed and the public key follow.
const SECRET_KEY: u8 = 0x81;

/// Most keys in one file.
const KEYS_MAX: usize = 64;

/// Makes a key pair, and returns the public key as a setting takes it.
///
/// # Errors
/// The file exists or can't be written, or the system has no random bytes.
pub fn keygen(options: &cli::Keygen) -> Result<String> {
    let mut seed = [0; Seed::BYTES];
    // Linux gives 256 bytes and less at once, or none.
    getrandom(&mut seed, GetRandomFlags::empty()).context("the system has no random bytes")?;
    let pair = KeyPair::from_seed(Seed::new(seed));
    write_key(&options.output, &pair.sk)?;
    Ok(BASE64_STANDARD.encode(*pair.pk))
}

fn write_key(path: &Path, key: &SecretKey) -> Result<()> {
    let file = path.display();
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut output| {
            output.write_all(&[SECRET_KEY])?;
            output.write_all(&**key)?;
            output.sync_all()
        })
        .with_context(|| format!("{file} can't be made, as a new file"))
}

fn read_key(path: &Path) -> Result<SecretKey> {
    let file = path.display();
    let bytes = fs::read(path).with_context(|| format!("{file} can't be read"))?;
    let Some((&SECRET_KEY, key)) = bytes.split_first() else {
        bail!("{file} is no secret key: expected a file that `proplet keygen` has made");
    };
    let key = SecretKey::from_slice(key)
        .map_err(|_| anyhow!("{file} has {} bytes: expected 65", bytes.len()))?;
    // With another public key a signature could give the secret one away.
    key.validate_public_key(&key.public_key())
        .map_err(|_| anyhow!("{file} is damaged: its public key is not that of its secret key"))?;
    Ok(key)
}

/// Signs a module, and returns the name of the file that it has written.
///
/// # Errors
/// A file can't be read or written, or [`sign_module`] fails.
pub fn sign(options: &cli::Sign) -> Result<String> {
    let key = read_key(&options.key)?;
    let module = load(&options.file)?;
    let signed = sign_module(&module, &key)
        .with_context(|| format!("{} can't be signed", options.file.display()))?;
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| options.file.with_extension("signed.wasm"));
    let name = output.display();
    fs::write(&output, signed).with_context(|| format!("{name} can't be written"))?;
    Ok(name.to_string())
}

/// `module` with a signature of all its sections. Ed25519 signatures that it has already stay if
/// they are of the same bytes; others would be of no use and go.
///
/// # Errors
/// It is no module, its signature section is malformed, or it would have more than
/// [`SIGNATURES_MAX`] signatures.
pub fn sign_module(module: &[u8], key: &SecretKey) -> Result<Vec<u8>> {
    let parts = signature::split(module)?;
    let hash = digest(parts.sections);
    let ours: Signature = *key.sign([&DOMAIN[..], &hash].concat(), None);
    let mut signed = vec![(hash.to_vec(), ours)];
    if let Some(payload) = parts.signature {
        signature::for_each(payload, |hashes, signature| {
            if signature::covers(hashes, &hash) && *signature != ours {
                signed.push((hashes.to_vec(), *signature));
            }
        })?;
    }
    if signed.len() > SIGNATURES_MAX {
        bail!("it has {SIGNATURES_MAX} signatures already: a proplet takes no more");
    }
    let mut out = HEADER.to_vec();
    CustomSection {
        name: signature::SECTION.into(),
        data: payload(&signed).into(),
    }
    .append_to(&mut out);
    out.extend_from_slice(parts.sections);
    Ok(out)
}

/// Payload of a signature section, with a set for each signature.
fn payload(signed: &[(Vec<u8>, Signature)]) -> Vec<u8> {
    let mut out = signature::FORMAT.to_vec();
    signed.len().encode(&mut out);
    for (hashes, signature) in signed {
        // No key id.
        let mut entry = vec![0, ED25519];
        signature[..].encode(&mut entry);
        let mut set = vec![];
        (hashes.len() / size_of::<Digest>()).encode(&mut set);
        set.extend_from_slice(hashes);
        1usize.encode(&mut set);
        entry[..].encode(&mut set);
        set[..].encode(&mut out);
    }
    out
}

/// Tells that a trusted key has signed a module.
///
/// # Errors
/// The module or the keys can't be read, or none of them has signed it.
pub fn verify(options: &cli::Verify) -> Result<String> {
    let keys = trusted_keys(&options.trusted_keys)?;
    if keys.is_empty() {
        bail!("there is no trusted key");
    }
    let file = options.file.display();
    let module = load(&options.file)?;
    Trust::new(&keys)
        .check(&module)
        .map_err(|reason| anyhow!("{file}: {reason}"))?;
    Ok(format!("{file}: a trusted key has signed it"))
}

/// Reads keys as [`signature::parse_keys`] does, or of files whose names stand in their place: with
/// keys as text, or a public key as `wasmsign2` stores it. None only if `text` is empty: a text that is given
/// is meant to name a key.
///
/// # Errors
/// The first word that is neither; or a file, or `text`, in which there is no key.
pub fn trusted_keys(text: &str) -> Result<Vec<PublicKey>> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    let mut keys = vec![];
    for word in words.filter(|word| !word.is_empty()) {
        match signature::parse_keys::<1>(word) {
            Ok(key) => keys.extend(key),
            Err(reason) => {
                let bytes = fs::read(word).with_context(|| format!("{reason}; no file either"))?;
                keys.extend(keys_of_file(&bytes).with_context(|| format!("{word} has no keys"))?);
            }
        }
    }
    if keys.is_empty() && !text.is_empty() {
        bail!("'{text}' has no keys: expected public keys, or names of files of them");
    }
    Ok(keys)
}

fn keys_of_file(bytes: &[u8]) -> Result<Vec<PublicKey>> {
    if let Some(key) = signature::key_from_bytes(bytes) {
        return Ok(vec![key]);
    }
    let text = std::str::from_utf8(bytes).context("expected text, or a public key of 33 bytes")?;
    let keys = signature::parse_keys::<KEYS_MAX>(text).map_err(|reason| anyhow!("{reason}"))?;
    if keys.is_empty() {
        bail!("there is no public key in it");
    }
    Ok(keys.to_vec())
}
