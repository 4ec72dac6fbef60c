//! `[assets]`

use pontoon_config::Config;
use pontoon_fleet::Code;

use super::{TWO, one};

#[test]
fn what_the_edge_hands_out_is_below_the_url() {
    let table = "local  = \"/var/www";
    let url = Config::parse(TWO).unwrap().assets.unwrap().url;
    let with = |private: &str| format!("serve = true\nprivate = [{private}]\n{table}");
    let good = TWO.replacen(table, &with(&format!("\"{url}shop/\"")), 1);
    let assets = Config::parse(&good).unwrap().assets.unwrap();
    assert!(assets.serve && assets.private == [format!("{url}shop/")]);
    for wrong in [format!("{url}shop"), "/other/".to_owned(), "shop/".to_owned()] {
        let quoted = format!("\"{wrong}\"");
        one(TWO, table, &with(&quoted), Code::C002, &quoted);
    }
}
