#![cfg_attr(feature = "libfuzzer", no_main)]
teamster_fuzz::target!(teamster::__fuzz::frame_decode);
