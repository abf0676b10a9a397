//! Dump.
fn main() {
    for f in std::env::args().skip(1) {
        match observer::capture::read(std::path::Path::new(&f), &[179]) {
            Ok(r) => {
                println!("{}", r.story.render(&r.summary));
                println!("{}", serde_json::to_string(&r.summary).unwrap());
            }
            Err(e) => println!("{f}: {e}"),
        }
    }
}
