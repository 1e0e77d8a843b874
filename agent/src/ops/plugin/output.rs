//! What a plugin prints: a line of text, more lines, and figures after a bar, as the Monitoring
//! Plugins Development Guidelines define them (section 2).

use hostler_proto::ops::PluginFigure;

/// What was printed, taken apart.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Output {
    /// The first line.
    pub summary: String,
    /// The lines after it.
    pub text: Vec<String>,
    /// The figures of all lines.
    pub figures: Vec<PluginFigure>,
}

/// Takes a plugin's output apart. What is no figure where one should be is left out.
pub(super) fn parse(printed: &str) -> Output {
    let mut output = Output::default();
    // After a second bar everything is figures, to the end.
    let mut only_figures = false;
    for (number, line) in printed.lines().enumerate() {
        let (text, data) = match line.split_once('|') {
            _ if only_figures => ("", line),
            Some((text, data)) => {
                only_figures = number > 0;
                (text, data)
            }
            None => (line, ""),
        };
        output.figures.extend(figures(data));
        let text = text.trim();
        match number {
            0 => text.clone_into(&mut output.summary),
            _ if text.is_empty() => {}
            _ => output.text.push(text.to_owned()),
        }
    }
    output
}

fn figures(mut data: &str) -> Vec<PluginFigure> {
    let mut figures = Vec::new();
    loop {
        data = data.trim_start();
        let Some((label, rest)) = label(data) else { return figures };
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (value, rest) = rest.split_at(end);
        figures.extend(figure(label, value));
        data = rest;
    }
}

/// A label, which may be quoted; a quote within is doubled.
fn label(data: &str) -> Option<(String, &str)> {
    let Some(quoted) = data.strip_prefix('\'') else {
        let (label, rest) = data.split_once('=')?;
        return Some((label.to_owned(), rest));
    };
    let mut label = String::new();
    let mut parts = quoted.split('\'');
    let mut used = 0;
    loop {
        let part = parts.next()?;
        label.push_str(part);
        used += part.len() + 1;
        let rest = quoted.get(used..)?;
        match rest.strip_prefix('\'') {
            Some(_) => {
                label.push('\'');
                used += 1;
                // The empty part between the two quotes.
                parts.next()?;
            }
            None => return Some((label, rest.strip_prefix('=')?)),
        }
    }
}

fn figure(label: String, text: &str) -> Option<PluginFigure> {
    let mut parts = text.split(';');
    let measured = parts.next()?;
    let (value, unit) = measured.split_at(digits(measured));
    if unit.starts_with(|c: char| !c.is_alphabetic() && c != '%') {
        return None;
    }
    // Some print a comma, as their language does; "U" stands for a value that is not known.
    let number = |text: &str| text.replace(',', ".").parse::<f64>().ok().filter(|n| n.is_finite());
    let mut range = || parts.next().unwrap_or_default().to_owned();
    let (warning, critical) = (range(), range());
    Some(PluginFigure {
        label,
        value: number(value)?,
        unit: unit.to_owned(),
        warning,
        critical,
        min: parts.next().and_then(number),
        max: parts.next().and_then(number),
    })
}

/// How long the number is with which a text begins, its exponent included.
fn digits(text: &str) -> usize {
    let run = |from: usize, takes: fn(u8) -> bool| {
        text.bytes().skip(from).take_while(|b| takes(*b)).count()
    };
    let sign = |from: usize| {
        usize::from(text.as_bytes().get(from).is_some_and(|b| matches!(b, b'+' | b'-')))
    };
    let begin = sign(0);
    let number = begin + run(begin, |b| b.is_ascii_digit() || matches!(b, b'.' | b','));
    if !text.as_bytes().get(number).is_some_and(|b| matches!(b, b'e' | b'E')) {
        return number;
    }
    let exponent = number + 1 + sign(number + 1);
    match run(exponent, |b| b.is_ascii_digit()) {
        // It is the beginning of a unit.
        0 => number,
        length => exponent + length,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_and_figures_are_told_apart_over_several_lines() {
        let printed = "DISK OK - free | /=2643MB;5948;5958;0;5968\n/ 15272 MB (77%)\n\
                       /boot 68 MB | /boot=68MB;88;93;0;98\n'/home dir'=69357.5MB;;;0";
        let output = parse(printed);
        assert_eq!(output.summary, "DISK OK - free");
        assert_eq!(output.text, ["/ 15272 MB (77%)", "/boot 68 MB"]);
        let seen: Vec<_> = output.figures.iter().map(|f| (f.label.as_str(), f.value)).collect();
        assert_eq!(seen, [("/", 2643.0), ("/boot", 68.0), ("/home dir", 69357.5)]);
        let first = &output.figures[0];
        assert_eq!((first.unit.as_str(), first.warning.as_str()), ("MB", "5948"));
        assert_eq!((first.min, first.max), (Some(0.0), Some(5968.0)));
    }

    #[test]
    fn quotes_units_and_unknown_values_are_read_as_the_guidelines_say() {
        let output = parse("ok|'it''s'=1% a=0,5s;@1:2;~:3 b=U c=12c junk =3");
        let seen: Vec<_> =
            output.figures.iter().map(|f| (f.label.as_str(), f.value, f.unit.as_str())).collect();
        assert_eq!(seen[..3], [("it's", 1.0, "%"), ("a", 0.5, "s"), ("c", 12.0, "c")]);
        assert_eq!(output.figures[1].critical, "~:3");
    }

    #[test]
    fn an_exponent_belongs_to_the_number_and_what_only_looks_like_one_to_the_unit() {
        let output = parse(
            "ok|a=1.2e-05s b=3E+2;4e2;5e2;1e-1;1e3 c=-5eV d=7e e=1e+ f=.5e1ms g=1.2.3 h=8e2%",
        );
        let seen: Vec<_> =
            output.figures.iter().map(|f| (f.label.as_str(), f.value, f.unit.as_str())).collect();
        let expected = [
            ("a", 1.2e-5, "s"),
            ("b", 300.0, ""),
            ("c", -5.0, "eV"),
            ("d", 7.0, "e"),
            ("e", 1.0, "e+"),
            ("f", 5.0, "ms"),
            ("h", 800.0, "%"),
        ];
        assert_eq!(seen, expected);
        assert_eq!((output.figures[1].min, output.figures[1].max), (Some(0.1), Some(1000.0)));
    }

    proptest! {
        #[test]
        fn nothing_that_a_plugin_prints_makes_it_panic(printed in "(\\PC|[|'=;\n])*") {
            parse(&printed);
        }
    }
}
