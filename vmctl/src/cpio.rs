//! The cpio archive that Linux takes as its initramfs.
//!
//! Format: "newc" of cpio(5): for each entry a header of 6 bytes magic `070701` and thirteen fields
//! of 8 hexadecimal digits, the name with its closing zero, padding to 4 bytes, the body, padding to
//! 4 bytes. An entry named `TRAILER!!!` ends it (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst).

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive under construction. Parents come before what lies in them; the kernel makes none.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, mode 0755. `path` is relative, as in all of these.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.entry(path, DIRECTORY | 0o755, 2, &[])
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, body: &[u8]) -> &mut Self {
        self.entry(path, FILE | (mode & 0o7777), 1, body)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(path, LINK | 0o777, 1, target.as_bytes())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        // The trailer carries no inode of its own.
        self.entries = 0;
        self.header("TRAILER!!!", 0, 0, 1, 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, body: &[u8]) -> &mut Self {
        assert!(
            !path.is_empty() && !path.starts_with('/') && !path.contains('\0'),
            "a relative path"
        );
        let length = u32::try_from(body.len()).expect("an initramfs entry is below 4 GiB");
        self.entries += 1;
        self.header(path, self.entries, mode, links, length);
        self.bytes.extend_from_slice(body);
        self.pad();
        self
    }

    fn header(&mut self, name: &str, inode: u32, mode: u32, links: u32, length: u32) {
        let name_length = u32::try_from(name.len() + 1).expect("a name is short");
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check (always 0 in newc).
        let fields = [
            inode,
            mode,
            0,
            0,
            links,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_bodies_lie_on_four_bytes() {
        let mut archive = Archive::new();
        archive
            .directory("bin")
            .file("init", 0o755, b"12345")
            .link("sh", "bin/busybox");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("ASCII and zeroes");
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0));
        // The second header: inode 2, mode 0100755, then the length in the seventh field.
        let second = &text[starts[1]..];
        assert_eq!(&second[6..22], "00000002000081ed");
        assert_eq!(&second[54..62], "00000005");
    }

    #[test]
    fn the_cpio_program_reads_what_we_write() {
        let mut archive = Archive::new();
        archive
            .directory("bin")
            .file("bin/tool", 0o755, &[7; 1001])
            .link("sh", "bin/tool")
            .file("empty", 0o600, b"");
        let mut child = std::process::Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("busybox: apt-get install busybox-static");
        let mut input = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut input, &archive.finish()).expect("write");
        drop(input);
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 4, "{listing}");
        assert!(
            lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" bin"),
            "{listing}"
        );
        assert!(
            lines[1].starts_with("-rwxr-xr-x") && lines[1].contains(" 1001 "),
            "{listing}"
        );
        assert!(
            lines[2].starts_with("lrwxrwxrwx") && lines[2].ends_with("sh -> bin/tool"),
            "{listing}"
        );
        assert!(lines[3].starts_with("-rw-------"), "{listing}");
    }
}
