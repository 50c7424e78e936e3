//! cosign's forms by its public specification, with signatures made by OpenSSL, by RFC 8032, and by the same crates.

use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha512};

use super::*;
use crate::key::Scheme;

/// What `cosign sign` makes for this image, to the byte.
const PAYLOAD: &str = "{\"critical\":{\"identity\":{\"docker-reference\":\"registry.example.com/team/app\"},\"image\":{\"docker-manifest-digest\":\"sha256:4aa3054270f7a70b4528f2064ee90961788e1e1518703592ae4463de3b889dec\"},\"type\":\"cosign container image signature\"},\"optional\":null}";
const HEX: &str = "4aa3054270f7a70b4528f2064ee90961788e1e1518703592ae4463de3b889dec";

/// Keys and signatures over `PAYLOAD` made by OpenSSL 3.
const OPENSSL: [(Scheme, &str, &str); 2] = [
    (
        Scheme::EcdsaP256,
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAExJ0wLL3G08+M1bkDDMf5vjHgxkhh\nPawgrwhAyJr3MNhtAKcGgIWcdjPP9uA00DJ3euCgpI6UloiTXNbnVmP9cA==\n-----END PUBLIC KEY-----\n",
        "MEYCIQDT0TbQ52OaJxX1VfPfze5H7Uxpz5mMUqgrN+CjfPrOyAIhAIzbw+NE2o+GOjadmp3ZoxG1lwAg4wnU0SbXezLud8xK",
    ),
    (
        Scheme::Ed25519,
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAis4wU6Rk5IlhR5UUdQpMSxyP8bLRUp5au4nLUSYUBk0=\n-----END PUBLIC KEY-----\n",
        "ajb/78rtFE2F1bqTuweP151QwSv3t08K8NGzOVA461ZMUS6Gvu8zEXqd0sLL/XWNQChaKSP6cAnVEQLNAhQ0Ag==",
    ),
];

/// A key pair of each scheme.
enum Pair {
    P256(p256::ecdsa::SigningKey),
    Ed25519(ed25519_dalek::SigningKey, Scheme),
}

impl Pair {
    fn all() -> [Self; 3] {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("entropy");
        seed[0] &= 0x7f; // Below the order of P-256.
        let ed25519 = ed25519_dalek::SigningKey::from_bytes(&seed);
        [
            Self::P256(p256::ecdsa::SigningKey::from_bytes(&seed.into()).expect("in range")),
            Self::Ed25519(ed25519.clone(), Scheme::Ed25519),
            Self::Ed25519(ed25519, Scheme::Ed25519ph),
        ]
    }

    fn scheme(&self) -> Scheme {
        match self {
            Self::P256(_) => Scheme::EcdsaP256,
            Self::Ed25519(_, scheme) => *scheme,
        }
    }

    fn pem(&self) -> String {
        let der = match self {
            Self::P256(key) => {
                [&crate::key::P256_HEAD[..], key.verifying_key().to_sec1_point(false).as_bytes()].concat()
            }
            Self::Ed25519(key, _) => [&crate::key::ED25519_HEAD[..], key.verifying_key().as_bytes()].concat(),
        };
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    fn key(&self) -> PemKey {
        PemKey::parse(&self.pem(), self.scheme()).expect("own key")
    }

    fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
            Self::Ed25519(key, Scheme::Ed25519ph) => {
                key.sign_prehashed(Sha512::new_with_prefix(message), None).expect("signs").to_bytes().to_vec()
            }
            Self::Ed25519(key, _) => key.sign(message).to_bytes().to_vec(),
        })
    }

    fn dsse(&self, payload_type: &str, payload: &str) -> String {
        let signature = self.sign(&pre_authentication_encoding(payload_type, payload.as_bytes()));
        format!(
            r#"{{"mediaType":"{BUNDLE_TYPE}","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{{"payload":"{}","payloadType":"{payload_type}","signatures":[{{"sig":"{signature}","keyid":""}}]}}}}"#,
            STANDARD.encode(payload)
        )
    }

    fn message(&self, message: &str) -> String {
        let digest = STANDARD.encode(Digest::of(message.as_bytes()).as_bytes());
        format!(
            r#"{{"mediaType":"{BUNDLE_TYPE}","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"messageSignature":{{"messageDigest":{{"algorithm":"SHA2_256","digest":"{digest}"}},"signature":"{}"}}}}"#,
            self.sign(message.as_bytes())
        )
    }
}

/// What `cosign sign --new-bundle-format` puts into the envelope.
fn statement(subject: &str, predicate: &str) -> String {
    format!(r#"{{"_type":"{STATEMENT_TYPE}", "subject":[{subject}], "predicateType":"{predicate}", "predicate":{{}}}}"#)
}

fn subject() -> String {
    format!(r#"{{"digest":{{"sha256":"{HEX}"}}}}"#)
}

fn digest() -> Digest {
    Digest::from_hex(HEX).expect("digits")
}

#[test]
fn signatures_of_openssl_verify() {
    for (scheme, pem, signature) in OPENSSL {
        let key = PemKey::parse(pem, scheme).expect("OpenSSL's key");
        assert_eq!(key.to_pem(), pem);
        let claim = verify_payload(&key, PAYLOAD, signature).expect("OpenSSL's signature");
        let name = ImageName::parse("registry.example.com/team/app").expect("name");
        assert_eq!(claim, Claim { digest: digest(), name: Some(name), version: None });
    }
    assert!(PemKey::parse(OPENSSL[0].1, Scheme::Ed25519).is_err());
    assert!(PemKey::parse(OPENSSL[1].1, Scheme::EcdsaP256).is_err());
}

#[test]
fn ed25519ph_is_that_of_rfc_8032() {
    let hex = |text: &str| -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(str::from_utf8(two).expect("ASCII"), 16).expect("hex"))
            .collect()
    };
    let secret = hex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42");
    let signature = hex(concat!(
        "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41",
        "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"
    ));
    let pair = ed25519_dalek::SigningKey::from_bytes(&secret.try_into().expect("32 bytes"));
    let key = Pair::Ed25519(pair, Scheme::Ed25519ph).key();
    assert!(key.verifies(b"abc", &signature));
    assert!(!key.verifies(b"abd", &signature));
}

#[test]
fn every_changed_byte_of_a_payload_is_refused() {
    for pair in Pair::all() {
        let (key, signature) = (pair.key(), pair.sign(PAYLOAD.as_bytes()));
        assert!(verify_payload(&key, PAYLOAD, &signature).is_ok());
        for at in 0..PAYLOAD.len() {
            let mut bytes = PAYLOAD.as_bytes().to_vec();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(verify_payload(&key, &changed, &signature), Err(CosignError::Unverified), "byte {at}");
        }
        let mut bytes = STANDARD.decode(&signature).expect("own");
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(verify_payload(&key, PAYLOAD, &STANDARD.encode(&bytes)).is_err(), "signature byte {at}");
            bytes[at] ^= 1;
        }
    }
}

#[test]
fn a_scheme_is_never_guessed() {
    let [_, pure, prehashed] = Pair::all();
    assert_eq!(pure.pem(), prehashed.pem());
    let signature = pure.sign(PAYLOAD.as_bytes());
    assert_eq!(verify_payload(&prehashed.key(), PAYLOAD, &signature), Err(CosignError::Unverified));
    let signature = prehashed.sign(PAYLOAD.as_bytes());
    assert_eq!(verify_payload(&pure.key(), PAYLOAD, &signature), Err(CosignError::Unverified));
}

#[test]
fn bundles_verify_in_both_forms() {
    for pair in Pair::all() {
        let key = pair.key();
        let bundle = pair.dsse(IN_TOTO_TYPE, &statement(&subject(), SIGN_PREDICATE));
        let nameless = Claim { digest: digest(), name: None, version: None };
        assert_eq!(verify_bundle(&key, &bundle, None), Ok(nameless));
        let named = subject().replacen('{', r#"{"name":"docker.io/redis:7","#, 1);
        let claim =
            verify_bundle(&key, &pair.dsse(IN_TOTO_TYPE, &statement(&named, SIGN_PREDICATE)), None).expect("named");
        assert_eq!(claim.name.map(String::from).as_deref(), Some("docker.io/library/redis"));
        assert_eq!(claim.version.map(String::from).as_deref(), Some("7"));
        let message = pair.message("{\"schemaVersion\":2}");
        let claim = verify_bundle(&key, &message, Some("{\"schemaVersion\":2}")).expect("message");
        assert_eq!(claim.digest, Digest::of(b"{\"schemaVersion\":2}"));
        assert!(verify_bundle(&key, &message, None).is_err());
        assert!(verify_bundle(&key, &message, Some("{\"schemaVersion\":3}")).is_err());
    }
}

#[test]
fn other_documents_are_no_image_signatures() {
    let [pair, ..] = Pair::all();
    let (key, good) = (pair.key(), statement(&subject(), SIGN_PREDICATE));
    let two = format!("{0},{0}", subject());
    let attestation = pair.dsse(IN_TOTO_TYPE, &statement(&subject(), "https://slsa.dev/provenance/v1"));
    assert!(matches!(verify_bundle(&key, &attestation, None), Err(CosignError::Kind(_))));
    assert!(matches!(verify_bundle(&key, &pair.dsse("text/plain", &good), None), Err(CosignError::Kind(_))));
    let bundle = pair.dsse(IN_TOTO_TYPE, &good);
    let bad = [
        pair.dsse(IN_TOTO_TYPE, &statement(&two, SIGN_PREDICATE)),
        pair.dsse(IN_TOTO_TYPE, &statement("", SIGN_PREDICATE)),
        pair.dsse(IN_TOTO_TYPE, &statement(r#"{"digest":{"sha512":"00"}}"#, SIGN_PREDICATE)),
        bundle.replace("v0.3+json", "v0.2+json"),
        bundle.replace("[{\"sig\"", "[{\"sig\":\"AAAA\"},{\"sig\""),
        bundle.replace("\"signatures\":[", "\"x\":["),
        bundle.replacen('{', "{\"messageSignature\":{\"signature\":\"AAAA\"},", 1),
        String::new(),
    ];
    for bundle in bad {
        assert!(verify_bundle(&key, &bundle, None).is_err(), "{bundle}");
    }
    let atomic = PAYLOAD.replace("cosign container image signature", "atomic container signature");
    let signature = pair.sign(atomic.as_bytes());
    assert!(matches!(verify_payload(&key, &atomic, &signature), Err(CosignError::Kind(_))));
}

#[test]
fn docker_hub_has_one_name() {
    for (text, canonical) in [
        ("redis", "docker.io/library/redis"),
        ("index.docker.io/library/redis", "docker.io/library/redis"),
        ("docker.io/team/app", "docker.io/team/app"),
        ("team/app", "docker.io/team/app"),
        ("localhost:5000/app", "localhost:5000/app"),
    ] {
        assert_eq!(canonical_name(&ImageName::parse(text).expect("name")).as_str(), canonical);
    }
    let (name, version) = docker_reference("quay.io/a/b:1.2@sha256:00").expect("reference");
    assert_eq!((name.as_str(), version.map(String::from).as_deref()), ("quay.io/a/b", Some("1.2")));
    assert!(docker_reference("A b").is_err());
}
