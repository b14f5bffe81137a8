//! The wire, from outside: bytes of version 1, round trips, bounds, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod any;
mod bounds;
mod golden;
mod refused;
mod round_trip;
mod views;

use punnet_protocol::signed::SIGNATURE_BYTES;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// A fleet key from a fixed seed: signatures are the same in every run (RFC 8032 is deterministic).
fn fleet_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn sign(bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
    fleet_key().sign(bytes).as_ref().try_into().unwrap()
}

fn verify(bytes: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    UnparsedPublicKey::new(&ED25519, fleet_key().public_key().as_ref())
        .verify(bytes, signature)
        .is_ok()
}
