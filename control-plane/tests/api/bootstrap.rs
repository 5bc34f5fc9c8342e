//! The file with the first admin token, after its token has been taken.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use postrider_control_plane::clock::Clock;
use postrider_domain::id::TokenId;
use postrider_domain::token::{Kind, SECRET_BYTES, Token};
use postrider_proto::v1;
use postrider_proto::v1::system_service_server::SystemService as _;

use crate::world::{World, admin};

#[tokio::test]
async fn a_leftover_bootstrap_token_file_is_reported_until_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(&folder.path().join("store")).await;
    let (file, now) = (folder.path().join("token"), Clock::start().wall());
    assert_eq!(leftover(&world).await, "", "nothing is configured");

    write_token(&file, &Token::new(Kind::Api, TokenId::new(now, 1), [7; SECRET_BYTES]));
    let printed = world.api.tokens.bootstrap(Some(&file), now).await.unwrap();
    assert!(printed.is_none(), "a token from a file is not printed");
    let expected = file.display().to_string();
    assert_eq!(leftover(&world).await, expected, "its token has been taken");

    std::fs::remove_file(&file).unwrap();
    assert_eq!(leftover(&world).await, "");
    // Without the file the next start needs none either.
    assert!(world.api.tokens.bootstrap(Some(&file), now).await.unwrap().is_none());

    // A file that is put back has no use, whatever is in it.
    std::fs::write(&file, "not a token").unwrap();
    assert!(world.api.tokens.bootstrap(Some(&file), now).await.unwrap().is_none());
    assert_eq!(leftover(&world).await, expected);
    world.end().await;
}

fn write_token(file: &Path, token: &Token) {
    std::fs::write(file, token.expose_text().as_str()).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn leftover(world: &World) -> String {
    let answer = world.api.get_system(admin(v1::GetSystemRequest {})).await.unwrap();
    answer.into_inner().leftover_bootstrap_token_file
}
