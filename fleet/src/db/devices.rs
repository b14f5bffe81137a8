//! Device rows.

use punnet_protocol::{Name, Report, Reported};
use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest as _, Sha256};

use super::{from_row, to_row};
use crate::error::{Error, Result};
use crate::state::{Device, Refusal};

/// Random bytes of a broker password. As many as the hash has: guessing is hopeless, so one fast salted hash will do.
const PASSWORD_BYTES: usize = 32;

const SALT_BYTES: usize = 16;

/// Enrols `name`, or gives it a new password when it is enrolled already. Returns the password, kept only as a hash.
pub fn enrol(connection: &Connection, name: &Name, password: Option<&str>) -> Result<String> {
    let password = match password {
        Some(given) => given.to_owned(),
        None => crate::hex(&random::<PASSWORD_BYTES>()?),
    };
    let salt = random::<SALT_BYTES>()?;
    connection.execute(
        "INSERT INTO devices (name, enrolled_s, salt, secret_hash) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET enrolled_s = ?2, salt = ?3, secret_hash = ?4",
        params![
            name.as_str(),
            to_row(crate::now_s()),
            salt,
            salted_hash(&salt, &password)
        ],
    )?;
    Ok(password)
}

/// True when `password` is the one `name` was enrolled with.
pub fn password_fits(connection: &Connection, name: &str, password: &str) -> Result<bool> {
    let row = connection
        .prepare_cached("SELECT salt, secret_hash FROM devices WHERE name = ?")?
        .query_row([name], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()?;
    // An unknown name takes as long as a wrong password.
    let (salt, expected) = row.unwrap_or_else(|| (vec![0; SALT_BYTES], vec![0; 32]));
    Ok(same_bytes(&salted_hash(&salt, password), &expected))
}

/// Compares without telling by its duration where the first difference is.
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// `N` bytes from the system's generator.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::invalid("password", "the system's random numbers are not available"))?;
    Ok(bytes)
}

/// Names of all devices, sorted.
pub fn names(connection: &Connection) -> Result<Vec<Name>> {
    let mut statement = connection.prepare_cached("SELECT name FROM devices ORDER BY name")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names
        .map(|name| name.map_err(Error::from).and_then(|name| parse_name(&name)))
        .collect()
}

/// True when the device is enrolled.
pub fn exists(connection: &Connection, name: &Name) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM devices WHERE name = ?")?;
    Ok(statement.exists([name.as_str()])?)
}

/// Reads one device.
pub fn read(connection: &Connection, name: &Name) -> Result<Option<Device>> {
    connection
        .prepare_cached(
            "SELECT generation, session, online, seen_s, reported, refusal, desired IS NOT NULL FROM devices WHERE name = ?",
        )?
        .query_row([name.as_str()], |row| Ok(device_of(row)))
        .optional()?
        .transpose()
}

/// Reads one device or says that there is none.
pub fn get(connection: &Connection, name: &Name) -> Result<Device> {
    read(connection, name)?.ok_or_else(|| Error::NoDevice(name.to_string()))
}

/// Writes what messages change.
pub fn write(connection: &Connection, name: &Name, device: &Device) -> Result<()> {
    // As a [`Report`], whose fields follow each other.
    let reported = device.reported.as_ref();
    let reported = reported
        .map(|reported| postcard::to_allocvec(&(reported, &device.troubles)))
        .transpose();
    let reported = reported.map_err(|why| Error::invalid("reported state", why))?;
    let refusal = device.refusal.as_ref().map(serde_json::to_string).transpose();
    let refusal = refusal.map_err(|why| Error::invalid("refusal", why))?;
    connection
        .prepare_cached(
            "UPDATE devices SET session = ?2, online = ?3, seen_s = ?4, reported = ?5, refusal = ?6 WHERE name = ?1",
        )?
        .execute(params![
            name.as_str(),
            to_row(device.session),
            device.online,
            device.seen_s.map(to_row),
            reported,
            refusal
        ])?;
    Ok(())
}

/// Stores a signed desired state and its generation.
pub fn write_desired(connection: &Connection, name: &Name, generation: u64, payload: &[u8]) -> Result<()> {
    connection.execute(
        "UPDATE devices SET generation = ?2, desired = ?3 WHERE name = ?1",
        params![name.as_str(), to_row(generation), payload],
    )?;
    Ok(())
}

/// The newest signed desired state, ready to publish.
pub fn desired(connection: &Connection, name: &Name) -> Result<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT desired FROM devices WHERE name = ?")?;
    Ok(statement
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?
        .flatten())
}

/// Marks every device offline: a new controller has heard of nobody yet.
pub fn all_offline(connection: &Connection) -> Result<()> {
    connection.execute("UPDATE devices SET online = 0 WHERE online", [])?;
    Ok(())
}

/// Takes the device's next command id.
pub fn take_command_id(connection: &Connection, name: &Name) -> Result<u64> {
    connection
        .query_row(
            "UPDATE devices SET command_next = command_next + 1 WHERE name = ? RETURNING command_next - 1",
            [name.as_str()],
            |row| row.get(0),
        )
        .optional()?
        .map(from_row)
        .ok_or_else(|| Error::NoDevice(name.to_string()))
}

pub(crate) fn parse_name(text: &str) -> Result<Name> {
    text.parse()
        .map_err(|why| Error::invalid(format!("name '{text}' in the database"), why))
}

fn device_of(row: &Row<'_>) -> Result<Device> {
    let reported: Option<Vec<u8>> = row.get(4)?;
    let refusal: Option<String> = row.get(5)?;
    let report = reported.and_then(|bytes| report_of(&bytes));
    let (reported, troubles) = report.map_or_else(Default::default, |report| {
        (Some(report.reported), report.troubles)
    });
    Ok(Device {
        generation: from_row(row.get(0)?),
        session: from_row(row.get(1)?),
        online: row.get(2)?,
        seen_s: row.get::<_, Option<i64>>(3)?.map(from_row),
        reported,
        troubles,
        // What an older version of this program wrote and this one cannot read is as good as not there.
        refusal: refusal.and_then(|text| serde_json::from_str::<Refusal>(&text).ok()),
        has_desired: row.get(6)?,
    })
}

/// This program wrote it: with troubles, or a version before that knew none. What cannot be read is as good as not there, the device says it again.
fn report_of(bytes: &[u8]) -> Option<Report> {
    let before = || postcard::from_bytes::<Reported>(bytes).map(Report::from);
    postcard::from_bytes(bytes).or_else(|_| before()).ok()
}

fn salted_hash(salt: &[u8], password: &str) -> Vec<u8> {
    let mut hasher = Sha256::new();
    hasher.update(salt);
    hasher.update(password.as_bytes());
    hasher.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use punnet_protocol::{Arch, BoardInfo, clipped};

    use super::*;

    #[test]
    fn only_the_newest_password_of_a_device_fits() {
        let db = super::super::in_memory();
        let name: Name = "pi".parse().unwrap();
        let first = enrol(&db, &name, None).unwrap();
        assert!(password_fits(&db, "pi", &first).unwrap());
        let second = enrol(&db, &name, None).unwrap();
        assert!(!password_fits(&db, "pi", &first).unwrap());
        assert!(password_fits(&db, "pi", &second).unwrap());
        assert!(!password_fits(&db, "other", &second).unwrap());
        assert!(!password_fits(&db, "pi", "").unwrap());
    }

    #[test]
    fn troubles_are_kept_and_what_a_version_without_them_wrote_is_read() {
        let db = super::super::in_memory();
        let name: Name = "pi".parse().unwrap();
        enrol(&db, &name, None).unwrap();
        let reported = Reported {
            session: 1,
            sequence: 1,
            generation: 1,
            converged: true,
            board: BoardInfo {
                arch: Arch::ArmV6,
                agent_version: clipped("0.1.0"),
                board: clipped("generic"),
                kernel: clipped("6.1"),
                memory_bytes: 1,
                disk_free_bytes: 1,
            },
            apps: heapless::Vec::new(),
        };
        let written = Device {
            reported: Some(reported.clone()),
            troubles: ["no data partition"].map(clipped).into_iter().collect(),
            ..Device::default()
        };
        write(&db, &name, &written).unwrap();
        assert_eq!(get(&db, &name).unwrap(), written);
        let before = postcard::to_allocvec(&reported).unwrap();
        db.execute("UPDATE devices SET reported = ?", [before]).unwrap();
        let read = get(&db, &name).unwrap();
        assert_eq!((read.reported, read.troubles.len()), (Some(reported), 0));
        db.execute("UPDATE devices SET reported = x'ff'", []).unwrap();
        assert_eq!(get(&db, &name).unwrap().reported, None);
    }

    #[test]
    fn command_ids_grow_and_never_repeat() {
        let db = super::super::in_memory();
        let name: Name = "pi".parse().unwrap();
        enrol(&db, &name, None).unwrap();
        assert_eq!(take_command_id(&db, &name).unwrap(), 1);
        enrol(&db, &name, None).unwrap();
        assert_eq!(take_command_id(&db, &name).unwrap(), 2);
    }
}
