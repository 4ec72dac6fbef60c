<?php
/*
Plugin Name: No flood check
Description: WordPress lets one visitor comment every 15 seconds. All visitors of the lab come from one address.
*/
add_filter( 'comment_flood_filter', '__return_false', 99 );
