//! The desired state of a device: built from its app rows, signed, and stored before anybody hears of it.

use heapless::Vec;
use punnet_protocol::{APPS_MAX, Arch, Desired, Digest, Name, PAYLOAD_BYTES_MAX, signed};
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use crate::db::apps::{self, AppRow, Chosen};
use crate::db::{devices, images};
use crate::error::{Error, Result};
use crate::key::FleetKey;
use crate::platform;

/// Who signs, for which fleet.
pub struct Signer {
    /// The fleet's name.
    pub fleet: Name,
    /// The fleet's key.
    pub key: FleetKey,
}

impl Signer {
    /// Signs the next desired state of `device` from its app rows and stores it. Returns its generation, which is above
    /// `floor` and above every one before.
    pub fn sign_next(&self, connection: &Connection, device: &Name, floor: u64) -> Result<u64> {
        let before = devices::get(connection, device)?.generation.max(floor);
        let generation = before + 1;
        let desired = build(
            &self.fleet,
            device,
            generation,
            &apps::of_device(connection, device)?,
        )?;
        let payload = self.sign(&desired)?;
        devices::write_desired(connection, device, generation, &payload)?;
        Ok(generation)
    }

    /// Encodes and signs one message.
    pub fn sign<T: signed::Signed>(&self, message: &T) -> Result<std::vec::Vec<u8>> {
        let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
        let payload = signed::encode(message, &mut buffer, |bytes| self.key.sign(bytes))
            .map_err(|why| Error::invalid("message", why))?;
        Ok(payload.to_vec())
    }
}

/// The desired state that the rows ask for: apps that the operator wants running and for which a manifest is known.
pub fn build(fleet: &Name, device: &Name, generation: u64, rows: &[AppRow]) -> Result<Desired> {
    let mut wanted = Vec::new();
    for row in rows.iter().filter(|row| row.running) {
        let Some(chosen) = &row.chosen else { continue };
        let app = row.spec.to_app(&row.name, &row.image, chosen)?;
        wanted.push(app).map_err(|_| {
            Error::invalid(
                format!("device '{device}'"),
                format!("it would have more than {APPS_MAX} apps"),
            )
        })?;
    }
    Ok(Desired {
        fleet: fleet.clone(),
        device: device.clone(),
        generation,
        signed_at_s: crate::now_s(),
        apps: wanted,
    })
}

/// What a device reports as [`punnet_protocol::AppReport::spec`] once it has taken up this row; `None` for one that cannot be
/// in a desired state.
pub fn spec_digest(row: &AppRow) -> Option<Digest> {
    let app = row
        .spec
        .to_app(&row.name, &row.image, row.chosen.as_ref()?)
        .ok()?;
    let encoded = postcard::to_allocvec(&app).ok()?;
    Some(Digest(Sha256::digest(encoded).into()))
}

/// The manifest of an image for a device; `None` when its platform is not known yet and the image has several.
pub fn choose(
    connection: &Connection,
    device: &Name,
    arch: Option<Arch>,
    image: &str,
) -> Result<Option<Chosen>> {
    let image = images::get(connection, image)?;
    let found = match (arch, image.manifests.as_slice()) {
        (Some(arch), manifests) => {
            Some(
                platform::choose(manifests, arch).ok_or_else(|| Error::WrongPlatform {
                    reference: image.reference.clone(),
                    offered: platform::offered(manifests),
                    device: device.to_string(),
                    wanted: platform::arch_name(arch).into(),
                })?,
            )
        }
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    Ok(found.map(Chosen::from))
}

/// Chooses again for a device whose architecture has just become known. Returns true when an app changed.
pub fn choose_again(connection: &Connection, device: &Name, arch: Arch) -> Result<bool> {
    let mut changed = false;
    for mut app in apps::of_device(connection, device)? {
        let before = (app.chosen, app.problem.take());
        match choose(connection, device, Some(arch), &app.image) {
            Ok(chosen) => app.chosen = chosen,
            Err(error @ (Error::WrongPlatform { .. } | Error::NoImage(_))) => {
                app.chosen = None;
                app.problem = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
        if before != (app.chosen, app.problem.clone()) {
            apps::write(connection, device, &app)?;
            changed = true;
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::images::Image;
    use crate::platform::{Manifest, Platform};
    use crate::spec::AppSpec;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn add_image(db: &Connection, reference: &str, architectures: &[(&str, &str)]) {
        let manifests = architectures
            .iter()
            .enumerate()
            .map(|(n, (architecture, variant))| Manifest {
                digest: Digest([n as u8; 32]),
                platform: Platform {
                    os: "linux".into(),
                    architecture: (*architecture).into(),
                    variant: (*variant).into(),
                },
                manifest_bytes: 10,
                total_bytes: 20,
            });
        let image = Image {
            reference: reference.into(),
            root: Digest([9; 32]),
            added_s: 0,
            bytes_total: 20,
            manifests: manifests.collect(),
            blobs: vec![],
        };
        images::replace(db, &image).unwrap();
    }

    fn row(app: &str, image: &str, chosen: Option<Chosen>, running: bool) -> AppRow {
        AppRow {
            name: name(app),
            image: image.into(),
            spec: AppSpec::default(),
            chosen,
            running,
            generation: 1,
            problem: None,
        }
    }

    fn signer() -> Signer {
        let dir = tempfile::tempdir().unwrap();
        let state = crate::state_dir::StateDir::open(dir.path()).unwrap();
        Signer {
            fleet: name("home"),
            key: FleetKey::make(&state, false).unwrap(),
        }
    }

    #[test]
    fn stopped_and_unresolved_apps_stay_out_of_the_desired_state() {
        let chosen = Some(Chosen {
            digest: Digest([1; 32]),
            manifest_bytes: 1,
            total_bytes: 2,
        });
        let rows = [
            row("a", "i", chosen, true),
            row("b", "i", chosen, false),
            row("c", "i", None, true),
        ];
        let desired = build(&name("home"), &name("pi"), 4, &rows).unwrap();
        let names: std::vec::Vec<_> = desired.apps.iter().map(|app| app.name.as_str()).collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn one_app_more_than_fits_is_an_error_that_says_so() {
        let chosen = Some(Chosen {
            digest: Digest([1; 32]),
            manifest_bytes: 1,
            total_bytes: 2,
        });
        let rows: std::vec::Vec<_> = (0..=APPS_MAX)
            .map(|n| row(&format!("app{n}"), "i", chosen, true))
            .collect();
        let error = build(&name("home"), &name("pi"), 1, &rows)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "device 'pi': it would have more than 16 apps");
    }

    #[test]
    fn generations_grow_past_the_floor_and_are_stored_with_their_payload() {
        let db = crate::db::in_memory();
        let pi = name("pi");
        devices::enrol(&db, &pi, None).unwrap();
        let signer = signer();
        assert_eq!(signer.sign_next(&db, &pi, 0).unwrap(), 1);
        assert_eq!(signer.sign_next(&db, &pi, 0).unwrap(), 2);
        assert_eq!(signer.sign_next(&db, &pi, 40).unwrap(), 41);
        assert_eq!(signer.sign_next(&db, &pi, 0).unwrap(), 42);
        assert!(devices::desired(&db, &pi).unwrap().is_some());
    }

    #[test]
    fn the_platform_decides_and_a_mismatch_is_one_sentence() {
        let db = crate::db::in_memory();
        let pi = name("pi");
        add_image(&db, "one", &[("amd64", "")]);
        add_image(&db, "two", &[("amd64", ""), ("arm", "v7")]);
        assert!(
            choose(&db, &pi, None, "one").unwrap().is_some(),
            "a single platform needs no report"
        );
        assert_eq!(
            choose(&db, &pi, None, "two").unwrap(),
            None,
            "several wait for the report"
        );
        assert_eq!(
            choose(&db, &pi, Some(Arch::ArmV7), "two")
                .unwrap()
                .unwrap()
                .digest,
            Digest([1; 32])
        );
        let error = choose(&db, &pi, Some(Arch::ArmV6), "two")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "image 'two' offers linux/amd64, linux/arm/v7, but device 'pi' is linux/arm/v6; build or add the image for \
             linux/arm/v6"
        );
    }

    #[test]
    fn the_first_report_settles_what_waited_and_what_was_guessed() {
        let db = crate::db::in_memory();
        let pi = name("pi");
        devices::enrol(&db, &pi, None).unwrap();
        add_image(&db, "one", &[("amd64", "")]);
        add_image(&db, "two", &[("amd64", ""), ("arm", "v7")]);
        for (app, image) in [("guessed", "one"), ("waits", "two")] {
            let chosen = choose(&db, &pi, None, image).unwrap();
            apps::write(&db, &pi, &row(app, image, chosen, true)).unwrap();
        }
        assert!(choose_again(&db, &pi, Arch::ArmV7).unwrap());
        let rows = apps::of_device(&db, &pi).unwrap();
        assert!(rows[0].problem.as_ref().unwrap().contains("offers linux/amd64") && rows[0].chosen.is_none());
        assert_eq!(rows[1].chosen.unwrap().digest, Digest([1; 32]));
        assert!(
            !choose_again(&db, &pi, Arch::ArmV7).unwrap(),
            "nothing new the second time"
        );
    }
}
