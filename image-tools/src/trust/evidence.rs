//! From signatures to what is known of them: which key verifies each, and what it then says. Nothing is parsed that a key
//! of a rule has not verified.

use crate::cosign::{self, Claim, CosignError};
use crate::key::{PemKey, PublicKey};
use crate::minisign::{Minisig, MinisignError};
use crate::signature::Signature;
use crate::statement::Statement;

use super::decide::{Evidence, Spoken};
use super::refusal::Flaw;
use super::rule::TrustedKey;
use super::{TrustDirs, TrustError};

/// Verifies signatures by keys, which are those of the rules that are about the image.
pub(super) fn gather(
    dirs: &TrustDirs,
    keys: &[&TrustedKey],
    signatures: &[Signature],
) -> Result<Vec<Evidence>, TrustError> {
    let mut evidence = Vec::with_capacity(signatures.len());
    for signature in signatures {
        let found = match signature {
            Signature::Pod { statement, minisig } => of_ours(keys, statement, minisig),
            Signature::CosignPayload { payload, signature } => {
                of_cosigns(keys, |key| cosign::verify_payload(key, payload, signature))
            }
            Signature::CosignBundle { bundle, signed } => {
                of_cosigns(keys, |key| cosign::verify_bundle(key, bundle, signed.as_deref()))
            }
        };
        for one in found {
            evidence.push(match one {
                Evidence::Says { key, spoken, .. } => Evidence::Says { revoked: dirs.revoked(key.id())?, key, spoken },
                Evidence::Flawed(key, flaw) => match dirs.revoked(key.id())? {
                    Some(reason) => Evidence::Flawed(key, Flaw::Revoked(reason)),
                    None => Evidence::Flawed(key, flaw),
                },
                other => other,
            });
        }
    }
    Ok(evidence)
}

/// Two keys may have the same id, because the maker of a key chooses it: each of them is tried.
fn of_ours(keys: &[&TrustedKey], statement: &str, minisig: &str) -> Vec<Evidence> {
    let minisig = match Minisig::parse(minisig) {
        Ok(minisig) => minisig,
        Err(error) => return vec![Evidence::Malformed(error.to_string())],
    };
    let id = minisig.key_id();
    let known = keys.iter().filter_map(|key| match key {
        TrustedKey::Minisign(public) if public.id() == id => Some((*key, public)),
        _ => None,
    });
    let found: Vec<Evidence> = known
        .map(|(key, public)| match read_statement(public, statement, &minisig) {
            Ok(statement) => Evidence::Says { key: key.clone(), revoked: None, spoken: Spoken::Statement(statement) },
            Err(flaw) => Evidence::Flawed(key.clone(), flaw),
        })
        .collect();
    if found.is_empty() { vec![Evidence::Unknown(Some(id))] } else { found }
}

fn read_statement(public: &PublicKey, statement: &str, minisig: &Minisig) -> Result<Statement, Flaw> {
    minisig.verify(public, statement.as_bytes()).map_err(|error: MinisignError| Flaw::Altered(error.to_string()))?;
    // Only bytes that a trusted key has signed are parsed.
    let statement = Statement::parse(statement.as_bytes()).map_err(|error| Flaw::Malformed(error.to_string()))?;
    if statement.key == public.id() { Ok(statement) } else { Err(Flaw::KeyName(statement.key)) }
}

/// Tries all keys: cosign's documents do not say by which key they are.
fn of_cosigns(keys: &[&TrustedKey], verify: impl Fn(&PemKey) -> Result<Claim, CosignError>) -> Vec<Evidence> {
    let mut found = Vec::new();
    for key in keys {
        let TrustedKey::Pem(pem) = key else { continue };
        match verify(pem) {
            Ok(claim) => {
                let spoken = Spoken::Foreign(claim);
                found.push(Evidence::Says { key: (*key).clone(), revoked: None, spoken });
            }
            Err(CosignError::Unverified) => {}
            // A document of another tool beside the image is no reason to refuse what is properly signed.
            Err(error) => found.push(Evidence::Flawed((*key).clone(), Flaw::Malformed(error.to_string()))),
        }
    }
    if found.is_empty() { vec![Evidence::Unknown(None)] } else { found }
}
