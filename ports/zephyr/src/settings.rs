//! The device's settings: the build's defaults, then what is stored, then the command line.

use crate::{ffi, header};
use proplet::{
    settings::{self, CREDENTIALS, Settings, table},
    text::Text,
};
use static_cell::ConstStaticCell;
use zephyr::kconfig as k;

#[cfg(CONFIG_SHELL)]
use core::{cell::RefCell, ffi::CStr};
#[cfg(CONFIG_SHELL)]
use critical_section::Mutex;

// The numbers of c/proplet.h that are the core's.
const _: () = {
    assert!(header::PROPLET_HOST_MAX as usize == table::HOST_MAX);
    assert!(header::PROPLET_WIFI_SSID_MAX as usize == table::SSID_MAX);
    assert!(header::PROPLET_WIFI_PSK_MAX as usize == table::PSK_MAX);
    // A key has 64 digits, and a comma.
    assert!(header::PROPLET_VALUE_MAX as usize >= settings::KEYS_MAX * 65);
    assert!(header::PROPLET_VALUE_MAX as usize >= table::SECRET_MAX);
    assert!(header::PROPLET_GIVEN_MAX as usize >= table::SPECS.len());
};

static SETTINGS: ConstStaticCell<Settings> = ConstStaticCell::new(Settings::EMPTY);

const HAS_TLS: bool = cfg!(CONFIG_PROPLET_TLS);
const HAS_SIGNATURES: bool = cfg!(CONFIG_PROPLET_SIGNATURES);

/// The settings in force; once a boot.
#[inline(never)]
pub fn load() -> &'static Settings {
    let settings = SETTINGS.take();
    settings.has_tls = HAS_TLS;
    settings.has_signatures = HAS_SIGNATURES;
    settings.page = proplet_engine::memory_least();
    if let Err(reason) = settings.set_defaults() {
        log::error!("default of {reason}");
    }
    build_defaults(settings);
    // A failure has been logged, with the values that are in force then.
    let _ = ffi::settings_load(|name, value| set(settings, name, value));
    #[cfg(CONFIG_ARCH_POSIX)]
    ffi::native_settings(|name, value| set(settings, name, value));
    settings
}

/// Takes one setting, or says why not.
fn set(settings: &mut Settings, name: &str, value: &str) {
    let taken = match CREDENTIALS.iter().position(|known| *known == name) {
        Some(kind) => credentials::keep(kind, name, value),
        None => settings.load(name, value),
    };
    if let Err(reason) = taken {
        log::error!("setting {reason}; it stays as it was");
    }
}

/// Takes the defaults that the build has. tests/settings.rs expects each option of the table here.
fn build_defaults(settings: &mut Settings) {
    let texts = [
        ("wifi_ssid", wifi_default().0),
        ("wifi_psk", wifi_default().1),
        ("proplet_id", k::CONFIG_PROPLET_ID),
        ("api_key", k::CONFIG_PROPLET_API_KEY),
        ("tenant_id", k::CONFIG_PROPLET_TENANT_ID),
        ("channel_id", k::CONFIG_PROPLET_CHANNEL_ID),
        ("mqtt_broker_host", k::CONFIG_PROPLET_MQTT_BROKER_HOST),
        ("caps", k::CONFIG_PROPLET_CAPS),
        ("model_registry_url", k::CONFIG_PROPLET_MODEL_REGISTRY_URL),
        ("data_store_url", k::CONFIG_PROPLET_DATA_STORE_URL),
        ("coordinator_url", k::CONFIG_PROPLET_COORDINATOR_URL),
        ("trusted_keys", trusted_keys_default()),
        (
            "mqtt_tls_enabled",
            match cfg!(CONFIG_PROPLET_MQTT_TLS_ENABLED) {
                true => "true",
                false => "false",
            },
        ),
    ];
    for (name, value) in texts {
        set(settings, name, value);
    }
    // Kconfig has checked the ranges of these.
    settings.mqtt_broker_port = k::CONFIG_PROPLET_MQTT_BROKER_PORT as u16;
    settings.heartbeat = k::CONFIG_PROPLET_HEARTBEAT as u32;
    settings.metrics_interval = k::CONFIG_PROPLET_METRICS_INTERVAL as u32;
    settings.result_delay_ms = k::CONFIG_PROPLET_RESULT_DELAY_MS as u32;
    settings.listener_wait = k::CONFIG_PROPLET_LISTENER_WAIT as u32;
    settings.note_after_ms = k::CONFIG_PROPLET_NOTE_AFTER_MS as u32;
    settings.deadline_max_ms = k::CONFIG_PROPLET_DEADLINE_MAX_MS as u64;
    settings.slice = k::CONFIG_PROPLET_SLICE as u32;
    settings.slice_ms = k::CONFIG_PROPLET_SLICE_MS as u32;
    settings.module_max_bytes = k::CONFIG_PROPLET_MODULE_MAX_BYTES as u32;
    settings.data_max_bytes = k::CONFIG_PROPLET_DATA_MAX_BYTES as u32;
    settings.log_bytes = k::CONFIG_PROPLET_LOG_BYTES as u32;
    settings.messages = k::CONFIG_PROPLET_MESSAGES as u32;
    settings.message_max_bytes = k::CONFIG_PROPLET_MESSAGE_MAX_BYTES as u32;
    settings.result_max_bytes = k::CONFIG_PROPLET_RESULT_MAX_BYTES as u32;
    settings.stack_bytes = k::CONFIG_PROPLET_GUEST_STACK_SIZE as u32;
    settings.stack_max_bytes = k::CONFIG_PROPLET_GUEST_STACK_SIZE_MAX as u32;
}

#[cfg(CONFIG_PROPLET_SIGNATURES)]
fn trusted_keys_default() -> &'static str {
    k::CONFIG_PROPLET_TRUSTED_KEYS
}

#[cfg(not(CONFIG_PROPLET_SIGNATURES))]
fn trusted_keys_default() -> &'static str {
    ""
}

#[cfg(CONFIG_PROPLET_WIFI)]
fn wifi_default() -> (&'static str, &'static str) {
    (k::CONFIG_PROPLET_WIFI_SSID, k::CONFIG_PROPLET_WIFI_PSK)
}

#[cfg(not(CONFIG_PROPLET_WIFI))]
fn wifi_default() -> (&'static str, &'static str) {
    ("", "")
}

/// Whether `name` can be set to `value`.
///
/// # Errors
/// The expected values.
#[cfg(CONFIG_SHELL)]
pub fn check(name: &str, value: &str) -> Result<(), Text> {
    if CREDENTIALS.contains(&name) {
        return settings::check_credential(name, value, crate::sizes::PEM);
    }
    critical_section::with(|cs| {
        let mut scratch = SCRATCH.borrow_ref_mut(cs);
        scratch.has_tls = HAS_TLS;
        scratch.has_signatures = HAS_SIGNATURES;
        scratch.page = proplet_engine::memory_least();
        scratch.set(name, value)
    })
}

/// Target of [`check`]: too large for the shell's stack, which tests/zephyr/shell measures.
#[cfg(CONFIG_SHELL)]
static SCRATCH: Mutex<RefCell<Settings>> = Mutex::new(RefCell::new(Settings::EMPTY));

/// All names as C needs them.
#[cfg(CONFIG_SHELL)]
static NAMES: [[u8; NAME]; table::SPECS.len()] = names();

#[cfg(CONFIG_SHELL)]
const NAME: usize = 24;

#[cfg(CONFIG_SHELL)]
const fn names() -> [[u8; NAME]; table::SPECS.len()] {
    let mut names = [[0; NAME]; table::SPECS.len()];
    let mut i = 0;
    while i < table::SPECS.len() {
        let name = table::SPECS[i].name.as_bytes();
        let mut at = 0;
        // The last byte must stay NUL: a longer name does not compile.
        assert!(name.len() < NAME);
        while at < name.len() {
            names[i][at] = name[at];
            at += 1;
        }
        i += 1;
    }
    names
}

/// The name at `index`, and whether its value must not be shown.
#[cfg(CONFIG_SHELL)]
pub fn name(index: usize) -> Option<(&'static CStr, bool)> {
    let name = CStr::from_bytes_until_nul(NAMES.get(index)?).ok()?;
    Some((name, table::SPECS[index].secret))
}

#[cfg(CONFIG_PROPLET_TLS)]
pub mod credentials {
    //! Certificates and keys, which stay: Zephyr's TLS refers to them.
    use super::*;
    use crate::sizes::PEM;
    use core::{cell::RefCell, ffi::CStr};
    use critical_section::Mutex;

    /// Kinds of [`CREDENTIALS`].
    const KINDS: [header::proplet_tls_kind; CREDENTIALS.len()] = [
        header::PROPLET_TLS_CA,
        header::PROPLET_TLS_CERT,
        header::PROPLET_TLS_KEY,
    ];

    /// Those of [`CREDENTIALS`], each with its NUL.
    type Pems = [[u8; PEM + 1]; CREDENTIALS.len()];

    static STORE: ConstStaticCell<Pems> = ConstStaticCell::new([[0; PEM + 1]; CREDENTIALS.len()]);

    /// The store, until it is Zephyr's.
    static LOADING: Mutex<RefCell<Option<&'static mut Pems>>> = Mutex::new(RefCell::new(None));

    /// Keeps one until [`register`].
    pub fn keep(kind: usize, name: &str, value: &str) -> Result<(), Text> {
        settings::check_credential(name, value, PEM)?;
        critical_section::with(|cs| {
            let mut loading = LOADING.borrow_ref_mut(cs);
            let pem = &mut loading.get_or_insert_with(|| STORE.take())[kind];
            pem.fill(0);
            pem[..value.len()].copy_from_slice(value.as_bytes());
        });
        Ok(())
    }

    /// Gives those that are set to Zephyr, once; whether there is a CA.
    pub fn register() -> bool {
        let pems = critical_section::with(|cs| LOADING.borrow_ref_mut(cs).take());
        let mut has_ca = false;
        for (kind, pem) in pems.into_iter().flatten().enumerate() {
            let Ok(pem) = CStr::from_bytes_until_nul(pem) else {
                continue;
            };
            if pem.is_empty() {
                continue;
            }
            match ffi::tls_add(KINDS[kind], pem) {
                Ok(()) => has_ca |= KINDS[kind] == header::PROPLET_TLS_CA,
                Err(e) => log::error!("{} is not taken: {e}", CREDENTIALS[kind]),
            }
        }
        has_ca
    }
}

#[cfg(not(CONFIG_PROPLET_TLS))]
pub mod credentials {
    //! Without TLS they are checked and not kept.
    use super::*;

    /// There is no CA.
    pub fn register() -> bool {
        false
    }

    pub(super) fn keep(_: usize, name: &str, value: &str) -> Result<(), Text> {
        settings::check_credential(name, value, 0)
    }
}
