//! Pages: one file that needs nothing else, no script, no network; for wide and narrow screens, light and dark, and paper.

use super::ink;
use super::picture::{Figure, visible};
use super::provenance::{Provenance, glossary};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// `--paper`, `--ink`, `--soft` (less important text), `--line` (rules), `--box` (what is set apart), `--mark` (links).
const LIGHT: &str =
    "--paper:#fff;--ink:#222;--soft:#555;--line:#ddd;--box:#f4f7fb;--mark:#0072b2;color-scheme:light";
const DARK: &str = "--paper:#14181d;--ink:#e6e6e6;--soft:#a9b1ba;--line:#39414a;--box:#1d242c;--mark:#6bb8ee;color-scheme:dark";

const STYLE: &str = "\
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);\
font:16px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;overflow-wrap:break-word}\
main{max-width:1180px;margin:0 auto;padding:32px 28px 64px}a{color:var(--mark)}\
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}\
h2{font-size:20px;margin:44px 0 8px;border-bottom:1px solid var(--line);padding-bottom:6px}h3{font-size:16px;margin:0 0 6px}\
.facts{color:var(--soft);margin:0 0 6px;overflow-wrap:anywhere}.summary{background:var(--box);border-left:4px solid var(--mark);\
padding:14px 20px;margin-top:16px;font-size:18px;overflow-wrap:anywhere}.summary p{margin:0 0 8px}.summary p:last-child{margin:0}\
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:28px 32px;margin-top:18px}\
figure{margin:0;min-width:0;max-width:640px}figcaption{color:var(--soft);font-size:14px;margin-top:6px}\
svg[role=img]{display:block;width:100%;height:auto}\
.legend{list-style:none;margin:6px 0 0;padding:0;font-size:14px;display:flex;flex-wrap:wrap;gap:2px 18px}\
.legend li{overflow-wrap:anywhere;line-height:1.6}.legend svg{vertical-align:middle;margin-right:8px}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;margin:10px 0}\
th,td{padding:4px 9px;text-align:right;border-bottom:1px solid var(--line)}th{font-weight:600;color:var(--soft);vertical-align:bottom}\
th:first-child,td:first-child{text-align:left;padding-left:0;position:sticky;left:0;background:var(--paper)}td:first-child{min-width:8em}\
.words td{text-align:left;vertical-align:top}.words th{text-align:left}\
tr.alone td{background:var(--box)}code{font-size:.94em;overflow-wrap:anywhere}\
pre{background:var(--box);padding:12px 16px;overflow-x:auto;font-size:13.5px;line-height:1.45;margin:6px 0}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:10px 0}dt{color:var(--soft)}dd{margin:0;min-width:0;overflow-wrap:anywhere}\
dd pre{white-space:pre-wrap;margin:0}\
@media(max-width:600px){main{padding:18px 14px 40px}.summary{padding:10px 14px;font-size:17px}\
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}td code{overflow-wrap:normal}\
svg[role=img]:not(.cells) text,svg[role=img]:not(.cells) .name{font-size:16px}}\
@media print{main{max-width:none;padding:0}figure,tr,.summary{break-inside:avoid}h2,h3{break-after:avoid}\
.scroll{overflow:visible}pre{white-space:pre-wrap}body{font-size:11pt}table{font-size:8.5pt}th,td{padding:2px 5px}}";

/// A page of HTML: title, findings, body, files beside it, and where it comes from.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// Title of the page.
    pub title: String,
    /// One line on what the page is about.
    pub facts: String,
    /// The findings; the most important first.
    pub summary: Vec<String>,
    /// Everything that the page shows between its findings and its foot.
    pub body: Markup,
    /// Files beside the page, and what is in each.
    pub files: &'a [(&'a str, &'a str)],
    /// The mitigations that it speaks of, as text.
    pub specs: Vec<&'a str>,
    /// Where the page's content comes from: program, day, command, machine and model.
    pub made: &'a Provenance,
}

impl Page<'_> {
    /// The page as the content of a file.
    pub fn render(&self) -> String {
        let terms = glossary(self.specs.iter().copied());
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width,initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(style())) }
                }
                body { main {
                    h1 { (self.title) }
                    p.facts { (self.facts) }
                    p.facts { (self.made.line()) " · as data: " (links(self.files)) }
                    @if !self.summary.is_empty() {
                        div.summary { @for sentence in &self.summary { p { (sentence) } } }
                    }
                    (self.body)
                    @if !terms.is_empty() {
                        (heading("The mitigations on this page"))
                        dl { @for (syntax, summary) in terms { dt { code { (syntax) } } dd { (summary) } } }
                    }
                    (heading("Where this page comes from"))
                    (self.made.table())
                    h3 { "Files beside it" }
                    dl { @for (name, content) in self.files { dt { (link(name)) } dd { (content) } } }
                } }
            }
        };
        visible(&page.into_string()) + "\n"
    }
}

fn style() -> String {
    format!(
        ":root{{{LIGHT}}}@media screen and (prefers-color-scheme:dark){{:root{{{DARK}}}}}{}{STYLE}",
        ink::css()
    )
}

fn link(name: &str) -> Markup {
    html! { a href=(name) { (name) } }
}

fn links(files: &[(&str, &str)]) -> Markup {
    html! {
        @for (index, (name, _)) in files.iter().enumerate() {
            @if index > 0 { ", " }
            (link(name))
        }
    }
}

/// The heading of a part.
pub fn heading(title: &str) -> Markup {
    html! { "\n" h2 { (title) } }
}

/// A part of sentences; nothing without any.
pub fn sentences(title: &str, sentences: &[String]) -> Markup {
    html! {
        @if !sentences.is_empty() {
            (heading(title))
            ul { @for sentence in sentences { li { (sentence) } } }
        }
    }
}

/// Figures, side by side where there is room.
pub fn figures<'a>(figures: impl IntoIterator<Item = &'a Figure>) -> Markup {
    let mut figures = figures.into_iter().peekable();
    html! {
        @if figures.peek().is_some() {
            div.figures { @for figure in figures { (figure.inline()) } }
        }
    }
}

/// A table with headings; the rows of `alone` are set apart.
pub fn table(headings: &[Markup], rows: &[Row]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
            tbody { @for row in rows {
                tr.alone[row.is_apart] { @for cell in &row.cells { td { (cell) } } }
            } }
        } }
    }
}

/// A row of a table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Cells of the row.
    pub cells: Vec<Markup>,
    /// Whether it is set apart from the others.
    pub is_apart: bool,
}

impl Row {
    /// A row of texts.
    pub fn of(cells: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self {
            cells: cells.into_iter().map(|cell| text(cell.as_ref())).collect(),
            is_apart: false,
        }
    }
}

/// A text in which `\n` is a line's end: headings of narrow columns have several.
pub fn text(words: &str) -> Markup {
    html! {
        @for (index, line) in words.split('\n').enumerate() {
            @if index > 0 { br; }
            (line)
        }
    }
}

/// Headings of a table.
pub fn headings(words: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<Markup> {
    words.into_iter().map(|words| text(words.as_ref())).collect()
}

/// A mitigation's text form; the model alone has a name instead.
pub fn spec(mitigation: &str) -> Markup {
    match mitigation {
        "none" => html! { "the model alone" },
        spec => html! { code { (spec) } },
    }
}
