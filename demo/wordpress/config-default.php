<?php
// The site's configuration, where Debian's package looks for it: /etc/wordpress/config-default.php.
// Words between @ signs are filled in by the lab; every server of a site has the same file.
define( 'DB_NAME', 'wordpress' );
define( 'DB_USER', 'wordpress' );
define( 'DB_PASSWORD', '@DB_PASSWORD@' );
define( 'DB_HOST', 'localhost' ); // the Unix socket, as on any Debian server

// Every address of the fleet leads to the site.
if ( isset( $_SERVER['HTTP_HOST'] ) && preg_match( '/^[a-zA-Z0-9.:\[\]-]+$/', $_SERVER['HTTP_HOST'] ) ) {
	define( 'WP_HOME', 'http://' . $_SERVER['HTTP_HOST'] );
	define( 'WP_SITEURL', 'http://' . $_SERVER['HTTP_HOST'] );
}

// The lab has no way out to the Internet.
define( 'WP_HTTP_BLOCK_EXTERNAL', true );
define( 'AUTOMATIC_UPDATER_DISABLED', true );
// WordPress's cron is a request that a page sends to its own site.
define( 'DISABLE_WP_CRON', true );

define( 'AUTH_KEY', '@SECRET@1' );
define( 'SECURE_AUTH_KEY', '@SECRET@2' );
define( 'LOGGED_IN_KEY', '@SECRET@3' );
define( 'NONCE_KEY', '@SECRET@4' );
define( 'AUTH_SALT', '@SECRET@5' );
define( 'SECURE_AUTH_SALT', '@SECRET@6' );
define( 'LOGGED_IN_SALT', '@SECRET@7' );
define( 'NONCE_SALT', '@SECRET@8' );
