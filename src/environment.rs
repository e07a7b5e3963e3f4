//! `infall env`: variables that make aws, boto3 and rclone speak to this server.

use crate::context::Context;
use crate::exit::Outcome;
use crate::server_file::ServerFile;
use clap::Args;
use std::collections::BTreeMap;

/// What to print.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
The output holds the secret key: eval it, do not log it.

Examples:
  eval \"$(infall env)\"
  aws s3 ls
  rclone lsd infall:
  infall env --json | jq -r .AWS_ENDPOINT_URL
  eval \"$(infall env --unset)\"                    back to what was before")]
pub(crate) struct Arguments {
    /// Print how to unset them
    #[arg(long)]
    unset: bool,
}

/// Does it.
pub(crate) fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let endpoint = context.server_url()?;
    let credentials = context.credentials(&endpoint)?;
    // Clients sign for the region that the server was started with.
    let region = match context.config.endpoint() {
        Some(_) => context.config.region().to_owned(),
        None => ServerFile::read(&context.data()?)?.region,
    };
    let ca = context.ca().filter(|_| endpoint.starts_with("https://"));
    let ca = ca.map(|ca| ca.display().to_string());
    let mut variables: BTreeMap<&str, &str> = BTreeMap::from([
        ("AWS_ACCESS_KEY_ID", credentials.access_key.as_str()),
        ("AWS_SECRET_ACCESS_KEY", credentials.secret_key.as_str()),
        ("AWS_DEFAULT_REGION", region.as_str()),
        ("AWS_REGION", region.as_str()),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("RCLONE_CONFIG_INFALL_TYPE", "s3"),
        ("RCLONE_CONFIG_INFALL_PROVIDER", "Other"),
        (
            "RCLONE_CONFIG_INFALL_ACCESS_KEY_ID",
            credentials.access_key.as_str(),
        ),
        (
            "RCLONE_CONFIG_INFALL_SECRET_ACCESS_KEY",
            credentials.secret_key.as_str(),
        ),
        ("RCLONE_CONFIG_INFALL_REGION", region.as_str()),
        ("RCLONE_CONFIG_INFALL_ENDPOINT", endpoint.as_str()),
        ("RCLONE_CONFIG_INFALL_FORCE_PATH_STYLE", "true"),
    ]);
    if let Some(ca) = &ca {
        // curl's own variable would hide the system's CAs from every other server; the SDKs' does, too,
        // but they speak to this one now.
        variables.insert("AWS_CA_BUNDLE", ca);
        variables.insert("RCLONE_CA_CERT", ca);
    }
    if let Some(token) = &credentials.session_token {
        variables.insert("AWS_SESSION_TOKEN", token);
        variables.insert("RCLONE_CONFIG_INFALL_SESSION_TOKEN", token);
    }
    context.show(&variables, || {
        let mut text = String::new();
        if arguments.unset {
            for name in variables.keys() {
                text.push_str(&format!("unset {name}\n"));
            }
            return text;
        }
        // A session token of another account would spoil every signature.
        text.push_str("unset AWS_SESSION_TOKEN\n");
        for (name, value) in &variables {
            text.push_str(&format!("export {name}={}\n", quoted(value)));
        }
        text
    });
    Ok(())
}

/// For a POSIX shell, whatever it holds.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_value_cannot_break_out_of_its_quotes() {
        assert_eq!(quoted("http://127.0.0.1:9000"), "http://127.0.0.1:9000");
        assert_eq!(quoted("a'; rm -rf $HOME"), "'a'\\''; rm -rf $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
