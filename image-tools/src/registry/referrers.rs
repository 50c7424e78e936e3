//! What refers to a manifest: signatures, by the referrers API, and by the fallback tag where a registry has no API
//! (OCI distribution specification 1.1, "Listing Referrers").

use super::http::{Request, body_bytes};
use super::{RegistryError, Repository};
use crate::digest::Digest;
use crate::oci::{self, Descriptor, Index};

/// Longest list of referrers.
const LIST_BYTES_MAX: u64 = 4 << 20;
/// Most referrers that are looked at: a stranger can add any number.
const REFERRERS_MAX: usize = 64;

impl Repository {
    /// The manifests of this artifact type that refer to `subject`; none if the registry knows of none.
    pub fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>, RegistryError> {
        let by_api = match self.referrers_by_api(subject, artifact_type) {
            Ok(list) => list,
            Err(RegistryError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        // A registry may have the API and still hold what was pushed before it had.
        let by_tag = self.referrers_by_tag(subject)?;
        let mut all: Vec<Descriptor> = by_api.into_iter().chain(by_tag).collect();
        all.retain(|found| found.artifact_type.as_deref() == Some(artifact_type));
        all.sort_by_key(|found| found.digest);
        all.dedup_by_key(|found| found.digest);
        all.truncate(REFERRERS_MAX);
        Ok(all)
    }

    fn referrers_by_api(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>, RegistryError> {
        self.first(|endpoint| {
            let kind = artifact_type.replace('+', "%2B");
            let url = endpoint.url(&format!("referrers/{subject}?artifactType={kind}"));
            let request = Request { accept: &[oci::INDEX], ..Request::default() };
            let mut response = self.http.ask(endpoint, &url, &request, "referrers")?;
            let bytes = body_bytes(&endpoint.registry, &mut response, LIST_BYTES_MAX)?;
            let list: Index = serde_json::from_slice(&bytes).map_err(|_| RegistryError::Malformed {
                host: endpoint.registry.clone(),
                what: "with a list of referrers that is not one".into(),
            })?;
            Ok(list.manifests)
        })
    }

    fn referrers_by_tag(&self, subject: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
        match self.document(&fallback_tag(subject), &[oci::INDEX]) {
            Ok(super::Document { content: oci::Document::Index(index), .. }) => Ok(index.manifests),
            Ok(_) => Ok(Vec::new()),
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Pushes a manifest with a `subject`, and lists it under the fallback tag if the registry did not take note of the
    /// subject itself.
    pub fn push_referrer(
        &self,
        subject: &Digest,
        artifact_type: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let digest = Digest::of(bytes);
        let noted = self.push_manifest(&digest.to_string(), media_type, bytes)?;
        if noted {
            return Ok(digest);
        }
        let mut manifests = self.referrers_by_tag(subject)?;
        if manifests.iter().all(|known| known.digest != digest) {
            let artifact_type = Some(artifact_type.to_owned());
            manifests.push(Descriptor { artifact_type, ..Descriptor::of(media_type, bytes) });
            let media_type = Some(oci::INDEX.to_owned());
            let list = Index { schema_version: 2, media_type, manifests, annotations: None };
            let bytes = serde_json::to_vec(&list).expect("a list of plain fields serialises");
            self.push_manifest(&fallback_tag(subject), oci::INDEX, &bytes)?;
        }
        Ok(digest)
    }
}

/// `sha256-HEX`
pub fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}
