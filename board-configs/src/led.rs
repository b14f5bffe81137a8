//! The status LED: how a board without a screen says how it is.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use linux_embedded_hal::gpio_cdev::{Chip, LineHandle, LineRequestFlags};

use crate::{BoardError, GpioLine, LedConfig, Result};

/// What the LED shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedPattern {
    /// Nothing to do, or the agent has ended.
    Off,
    /// Connected, all apps as wanted.
    Steady,
    /// Working towards what is wanted: one second on, one second off.
    Slow,
    /// Something needs a person: five times a second.
    Fast,
}

impl LedPattern {
    /// Time between two changes; `None` when there are none.
    pub const fn half_period_ms(self) -> Option<u32> {
        match self {
            Self::Off | Self::Steady => None,
            Self::Slow => Some(1000),
            Self::Fast => Some(100),
        }
    }
}

/// Something that can be on or off.
pub trait Line {
    /// Switches it.
    fn set(&mut self, on: bool) -> io::Result<()>;
}

impl Line for LineHandle {
    fn set(&mut self, on: bool) -> io::Result<()> {
        self.set_value(on.into()).map_err(io::Error::other)
    }
}

/// The `brightness` file of a LED of the kernel's LED class (Linux `Documentation/leds/leds-class.rst`).
struct ClassLed(PathBuf);

impl Line for ClassLed {
    fn set(&mut self, on: bool) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(&self.0)?
            .write_all(if on { b"1" } else { b"0" })
    }
}

/// A status LED and what it shows. It has no clock: whoever owns it calls [`Led::tick`].
pub struct Led {
    line: Box<dyn Line>,
    pattern: LedPattern,
    on: bool,
}

impl Led {
    /// Takes the board's LED and switches it off.
    pub fn open(config: &LedConfig) -> Result<Self> {
        match config {
            LedConfig::Gpio(line) => Self::gpio(line),
            LedConfig::Class(name) => {
                Self::class(&Path::new("/sys/class/leds").join(name).join("brightness"))
            }
        }
    }

    fn gpio(at: &GpioLine) -> Result<Self> {
        let failed = |source: linux_embedded_hal::gpio_cdev::Error| {
            Box::new(BoardError::Gpio {
                chip: at.chip.clone(),
                line: at.line,
                source: source.into(),
            })
        };
        let mut flags = LineRequestFlags::OUTPUT;
        flags.set(LineRequestFlags::ACTIVE_LOW, at.active_low);
        let mut chip = Chip::new(&at.chip).map_err(failed)?;
        let line = chip.get_line(at.line).map_err(failed)?;
        Ok(Self::new(Box::new(
            line.request(flags, 0, "punnet status").map_err(failed)?,
        )))
    }

    fn class(path: &Path) -> Result<Self> {
        let mut line = ClassLed(path.into());
        line.set(false).map_err(|source| BoardError::LedClass {
            path: path.into(),
            source,
        })?;
        Ok(Self::new(Box::new(line)))
    }

    /// A LED on any line, which must be off.
    pub fn new(line: Box<dyn Line>) -> Self {
        Self {
            line,
            pattern: LedPattern::Off,
            on: false,
        }
    }

    /// Shows `pattern` from now on, beginning with on. The same pattern again changes nothing.
    pub fn show(&mut self, pattern: LedPattern) -> io::Result<()> {
        if self.pattern == pattern {
            return Ok(());
        }
        self.pattern = pattern;
        self.switch(pattern != LedPattern::Off)
    }

    /// To be called every [`LedPattern::half_period_ms`].
    pub fn tick(&mut self) -> io::Result<()> {
        match self.pattern.half_period_ms() {
            Some(_) => self.switch(!self.on),
            None => Ok(()),
        }
    }

    /// What is shown.
    pub fn pattern(&self) -> LedPattern {
        self.pattern
    }

    fn switch(&mut self, on: bool) -> io::Result<()> {
        self.line.set(on)?;
        self.on = on;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Stands for a chip where the machine has none.
    struct FakeLine(Rc<RefCell<Vec<bool>>>);

    impl Line for FakeLine {
        fn set(&mut self, on: bool) -> io::Result<()> {
            self.0.borrow_mut().push(on);
            Ok(())
        }
    }

    #[test]
    fn a_blinking_pattern_toggles_and_a_steady_one_does_not() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let mut led = Led::new(Box::new(FakeLine(seen.clone())));
        led.show(LedPattern::Slow).unwrap();
        led.tick().unwrap();
        led.tick().unwrap();
        led.show(LedPattern::Slow).unwrap();
        led.show(LedPattern::Steady).unwrap();
        led.tick().unwrap();
        led.show(LedPattern::Off).unwrap();
        assert_eq!(*seen.borrow(), [true, false, true, true, false]);
    }

    #[test]
    fn a_led_of_the_kernel_is_switched_through_its_brightness_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("brightness");
        std::fs::write(&path, "9").unwrap();
        let mut led = Led::class(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0");
        led.show(LedPattern::Steady).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"1");
    }

    #[test]
    fn a_line_that_is_not_there_is_named() {
        let line = GpioLine {
            chip: "/dev/null".into(),
            line: 47,
            active_low: true,
        };
        let error = Led::open(&LedConfig::Gpio(line)).err().unwrap().to_string();
        assert!(error.contains("line 47 of /dev/null"), "{error}");
        let error = Led::open(&LedConfig::Class("no-such-led".into()))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("/sys/class/leds/no-such-led"), "{error}");
    }
}
