//! Which certificates are believed: those of the system, and those an administrator named for one registry.

use super::{RegistryError, Settings};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Where container tools keep a registry's CA: `DIRECTORY/HOST[:PORT]/*.crt`.
const CERTIFICATE_DIRECTORIES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// The system's certificates, or those of `SSL_CERT_FILE`.
pub(super) fn system_roots() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    found.certs.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).collect()
}

/// The certificates named for one registry alone.
pub(super) fn own_roots(registry: &str, settings: &Settings) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let mut files: Vec<PathBuf> = settings.rule(registry).and_then(|rule| rule.ca.clone()).into_iter().collect();
    for directory in CERTIFICATE_DIRECTORIES {
        let Ok(entries) = std::fs::read_dir(Path::new(directory).join(registry)) else { continue };
        let entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
        files.extend(entries.filter(|file| file.extension().is_some_and(|extension| extension == "crt")));
    }
    let mut roots = Vec::new();
    for file in files {
        super::settings::check("certificates", &file)?;
        let pem = std::fs::read(&file)
            .map_err(|source| RegistryError::Local { what: format!("read the CA `{}`", file.display()), source })?;
        let before = roots.len();
        roots.extend(parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        }));
        if roots.len() == before {
            let reason = "holds no certificate in PEM form".into();
            return Err(RegistryError::Settings { file: file.display().to_string(), reason });
        }
    }
    Ok(roots)
}

/// TLS 1.2 and 1.3 by rustls, with `ring`: the one place that names the cryptography, so that another can replace it.
pub(super) fn config(roots: Vec<Certificate<'static>>, insecure: bool) -> TlsConfig {
    TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .disable_verification(insecure)
        .build()
}

/// What a person can act on, out of rustls' error.
pub(super) fn reason(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else { return error.to_string() };
    match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => "it has expired".into(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => "it is not valid yet".into(),
        Bad::UnknownIssuer => "no CA that this machine trusts has signed it".into(),
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "it is for another host name".into(),
        Bad::Revoked => "it was revoked".into(),
        other => format!("{other:?}").chars().take(200).collect(),
    }
}
