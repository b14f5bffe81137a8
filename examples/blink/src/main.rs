//! Switches a GPIO line on and off and reads it back, once a second: `blink CHIP LINE [--times N]`, as `blink /dev/gpiochip0 17`.
//!
//! In a container it needs the board's class of GPIO devices and nothing else: `punnet run --device-class gpio ...`.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use linux_embedded_hal::gpio_cdev::{Chip, LineRequestFlags, errors::Error};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (chip, line, times) = match words[..] {
        [chip, line] => (chip, line.parse(), Ok(u32::MAX)),
        [chip, line, "--times", times] => (chip, line.parse(), times.parse()),
        _ => {
            eprintln!("blink CHIP LINE [--times N]");
            return ExitCode::from(2);
        }
    };
    let (Ok(line), Ok(times)) = (line, times) else {
        eprintln!("blink: LINE and N are numbers");
        return ExitCode::from(2);
    };
    match blink(chip, line, times) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blink: line {line} of {chip}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn blink(chip: &str, line: u32, times: u32) -> Result<(), Error> {
    let handle = Chip::new(chip)?
        .get_line(line)?
        .request(LineRequestFlags::OUTPUT, 0, "blink")?;
    for turn in 0..times {
        let wanted = u8::from(turn % 2 == 0);
        handle.set_value(wanted)?;
        println!("line {line} set to {wanted}, reads {}", handle.get_value()?);
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
