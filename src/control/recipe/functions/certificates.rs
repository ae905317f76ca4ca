//! Certificates from a secret: the same ones each time, so that nothing but the secret has to be kept.
//!
//! Ed25519 keys and signatures follow from their seed alone (RFC 8032), and all else in the certificates is fixed.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use starlark::{
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{Value, list::UnpackList, structs::AllocStruct},
};

use super::session;
use crate::{control::recipe::error::Fault, plan::Secret};

/// What stands before an Ed25519 seed in PKCS #8 (RFC 8410 section 7).
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// A shorter seed could be guessed.
const SHORTEST_SEED: usize = 16;

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// A certificate for these host names and addresses, for servers and their clients: a struct of PEM texts
    /// `certificate`, `key` (a secret) and `ca` (the certificate that signed it). All follow from `seed`, a secret of
    /// at least 16 characters such as `secret("tls")`: the same names and seed give the same texts, and one seed has
    /// one CA.
    fn certificate<'v>(
        names: UnpackList<&'v str>,
        seed: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let session = session(eval)?;
        let names = names.items.into_iter().map(|name| session.plain("names", name)).collect::<Result<Vec<_>, _>>()?;
        let seed = session.text(seed)?;
        if !seed.is_secret() {
            return Err(Fault::evaluation("`seed` is not a secret: everybody could make the key")
                .hint("use secret(\"tls\"), which makes one up")
                .into());
        }
        let seed = seed.into_secret();
        if seed.expose().len() < SHORTEST_SEED {
            return Err(Fault::evaluation(format!("`seed` is shorter than {SHORTEST_SEED} characters")).into());
        }
        if names.is_empty() {
            return Err(Fault::evaluation("`names` is empty: the certificate would fit no host").into());
        }
        let issued = issue(&seed, &names).map_err(|error| {
            Fault::evaluation(format!("cannot make a certificate for {}: {error}", names.join(", ")))
        })?;
        let heap = eval.heap();
        Ok(heap.alloc(AllocStruct([
            ("certificate", heap.alloc(issued.certificate)),
            ("key", heap.alloc(session.veil.hide(issued.key)?)),
            ("ca", heap.alloc(issued.ca)),
        ])))
    }
}

struct Issued {
    certificate: String,
    key: Secret<String>,
    ca: String,
}

fn issue(seed: &Secret<String>, names: &[String]) -> Result<Issued, rcgen::Error> {
    let mut ca_params = params(Vec::new(), "ovs-cuisine CA", seed, "ca")?;
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = key(seed, "ca")?;
    let ca = ca_params.self_signed(&ca_key)?.pem();
    let purpose = format!("member {}", names.join(","));
    let mut params = params(names.to_vec(), &names[0], seed, &purpose)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = key(seed, &purpose)?;
    let certificate = params.signed_by(&key, &Issuer::new(ca_params, ca_key))?.pem();
    Ok(Issued { certificate, key: Secret::new(key.serialize_pem()), ca })
}

fn params(
    names: Vec<String>,
    common_name: &str,
    seed: &Secret<String>,
    purpose: &str,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // A lab's own CA is replaced by another seed, not by the calendar.
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2099, 12, 31));
    let mut serial = derive(seed, &format!("serial of {purpose}"))[..16].to_vec();
    // Positive and of full length, as RFC 5280 section 4.1.2.2 wants it.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from(serial));
    Ok(params)
}

fn key(seed: &Secret<String>, purpose: &str) -> Result<KeyPair, rcgen::Error> {
    let mut der = PKCS8_ED25519.to_vec();
    der.extend_from_slice(&derive(seed, &format!("key of {purpose}")));
    KeyPair::try_from(der.as_slice())
}

fn derive(seed: &Secret<String>, purpose: &str) -> [u8; 32] {
    let key = blake3::derive_key("ovs-cuisine 2024-01-01 certificates", seed.expose().as_bytes());
    *blake3::keyed_hash(&key, purpose.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seed: &str, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        issue(&Secret::new(seed.to_owned()), &names).unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_texts() {
        let (one, again) =
            (of("a seed of some length", &["etcd", "10.0.0.1"]), of("a seed of some length", &["etcd", "10.0.0.1"]));
        assert_eq!((&one.certificate, &one.key, &one.ca), (&again.certificate, &again.key, &again.ca));
        let member = of("a seed of some length", &["etcd-2"]);
        assert_eq!(member.ca, one.ca, "one seed has one CA");
        assert_ne!(member.key, one.key);
        let other = of("another seed, as long", &["etcd", "10.0.0.1"]);
        assert!(other.ca != one.ca && other.key != one.key && other.certificate != one.certificate);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let issued = issue(&Secret::new("a seed of some length".to_owned()), &["nä me".to_owned()]);
        assert!(issued.is_err());
    }
}
