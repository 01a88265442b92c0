BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE audits (
	"key" VARCHAR(64) NOT NULL, 
	defense VARCHAR(200) NOT NULL, 
	base VARCHAR(200) NOT NULL, 
	dataset VARCHAR(200) NOT NULL, 
	budget VARCHAR(16) NOT NULL, 
	result JSON NOT NULL, 
	provenance JSON NOT NULL, 
	created FLOAT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE examples (
	run VARCHAR(64) NOT NULL, 
	game INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	"index" INTEGER NOT NULL, 
	label INTEGER NOT NULL, 
	answer INTEGER NOT NULL, 
	clean_answer INTEGER, 
	linf FLOAT, 
	l2 FLOAT, 
	l0 FLOAT, 
	violation TEXT NOT NULL, 
	x_sha256 VARCHAR(64) NOT NULL, 
	adv_sha256 VARCHAR(64) NOT NULL, 
	forwards INTEGER NOT NULL, 
	backwards INTEGER NOT NULL, 
	queries INTEGER NOT NULL, 
	simulated INTEGER NOT NULL, 
	adaptation_steps INTEGER NOT NULL, 
	believed BOOLEAN, 
	fooled_inside BOOLEAN, 
	attack_s FLOAT NOT NULL, 
	defense_s FLOAT NOT NULL, neighbours JSON, 
	PRIMARY KEY (run, game, position), 
	FOREIGN KEY(run) REFERENCES runs ("key") ON DELETE CASCADE
);
INSERT INTO "examples" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c',0,0,332,9,9,9,2.00000002980232238769e-01,1.31635022109537103141e+00,52.0,'','2347f12445c143e9a0909a564e7ca30b21381549a039fbeba96705bb799ecd6a','eed7943bb441aed513b353e58b5b95a8db15ed86f4cd0b82ddee28bf3c855e0a',40,40,0,0,2,1,1,2.65071416498358303215e-01,5.35635689993796404451e-02,'{"D": [0, 0, 5, 14, 0, 2, 0, 0, 3, 8], "D''": [0, 0, 1, 7, 0, 2, 0, 0, 5, 17]}');
INSERT INTO "examples" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c',0,1,151,0,0,0,2.00000002980232238769e-01,1.17511272916537823363e+00,46.0,'','6f8dc4e4ccb7141aadcf899be18d082754aefef87aa27ae538a47181d911fd3a','073aceac79293fd7a627a6312f3d85bbabbc192633de811cc231eb547040bf69',40,40,0,0,2,1,1,2.65071416498358303215e-01,4.23901150006713578477e-02,'{"D": [20, 0, 0, 0, 9, 0, 3, 0, 0, 0], "D''": [16, 0, 0, 0, 13, 0, 2, 0, 1, 0]}');
INSERT INTO "examples" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c',1,0,53,6,6,6,2.00000002980232238769e-01,1.21393557213413849638e+00,49.0,'','46dcde6f4cf54a8e60c59b13485b807ed26cefb94ad6b19809c744a22d6f070d','f55b75cc43ad83936c7313bab3deae8be25c7b24801f3b1d03465da5c2dafd2d',40,40,0,0,2,1,1,2.55581321001045580487e-01,0.0804997609993734,'{"D": [1, 0, 0, 0, 13, 1, 17, 0, 0, 0], "D''": [1, 1, 0, 0, 3, 1, 26, 0, 0, 0]}');
INSERT INTO "examples" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c',1,1,205,0,0,0,2.00000002980232238769e-01,1.2813225475577558754e+00,58.0,'','63247fc0d351e8fb062a14cc9461665f29ba2842dc73db74f4663773ef41cf99','2915b585cd7fc81422706911e77bda924f510cd6e8bcf0f67ce9f29981e062b9',40,40,0,0,2,0,0,2.55581321001045580487e-01,8.43102079998061526566e-02,'{"D": [18, 0, 0, 0, 0, 0, 13, 0, 1, 0], "D''": [23, 0, 1, 2, 0, 2, 4, 0, 0, 0]}');
INSERT INTO "examples" VALUES('166a686705ce292b51d4d12964afab4bf87ede2119be66a7b4c6da2be33d3d74',0,0,332,9,9,NULL,0.0,0.0,0.0,'','2347f12445c143e9a0909a564e7ca30b21381549a039fbeba96705bb799ecd6a','2347f12445c143e9a0909a564e7ca30b21381549a039fbeba96705bb799ecd6a',0,0,0,0,0,NULL,NULL,7.93766715408613340908e-06,1.83093839999249503869e-02,NULL);
INSERT INTO "examples" VALUES('166a686705ce292b51d4d12964afab4bf87ede2119be66a7b4c6da2be33d3d74',0,1,53,6,6,NULL,0.0,0.0,0.0,'','46dcde6f4cf54a8e60c59b13485b807ed26cefb94ad6b19809c744a22d6f070d','46dcde6f4cf54a8e60c59b13485b807ed26cefb94ad6b19809c744a22d6f070d',0,0,0,0,0,NULL,NULL,7.93766715408613340908e-06,1.83093839999249503869e-02,NULL);
INSERT INTO "examples" VALUES('166a686705ce292b51d4d12964afab4bf87ede2119be66a7b4c6da2be33d3d74',0,2,151,0,0,NULL,0.0,0.0,0.0,'','6f8dc4e4ccb7141aadcf899be18d082754aefef87aa27ae538a47181d911fd3a','6f8dc4e4ccb7141aadcf899be18d082754aefef87aa27ae538a47181d911fd3a',0,0,0,0,0,NULL,NULL,7.93766715408613340908e-06,1.83093839999249503869e-02,NULL);
INSERT INTO "examples" VALUES('a110f59128e041cbcbc152e7fe5ad60a954b941eed3eb0c2523b6bbe777982a7',0,0,332,9,8,NULL,1.70027554035186767578e-01,4.12205346644675341138e-01,55.0,'','2347f12445c143e9a0909a564e7ca30b21381549a039fbeba96705bb799ecd6a','6a3282c037a105cb547290dceac19f1619960c0d401fe42fb8684ed467562356',1989,1988,0,0,0,1,1,1.24715313803031668804e+00,4.22358666886187450895e-04,NULL);
INSERT INTO "examples" VALUES('a110f59128e041cbcbc152e7fe5ad60a954b941eed3eb0c2523b6bbe777982a7',0,1,53,6,4,NULL,2.81539261341094970703e-01,6.65818978047236553763e-01,57.0,'','46dcde6f4cf54a8e60c59b13485b807ed26cefb94ad6b19809c744a22d6f070d','4768a3243dad3c700c2599d420927a4b8fddeda6724b73c6279c2b9357d31218',1989,1988,0,0,0,1,1,1.24715313803031668804e+00,4.22358666886187450895e-04,NULL);
INSERT INTO "examples" VALUES('a110f59128e041cbcbc152e7fe5ad60a954b941eed3eb0c2523b6bbe777982a7',0,2,151,0,6,NULL,3.68456065654754638671e-01,0.865696148198258,53.0,'','6f8dc4e4ccb7141aadcf899be18d082754aefef87aa27ae538a47181d911fd3a','96dfb521c7db7fd3f4c3e4273bad84ad9242422c66d471c8c9b4191d4b43092a',1989,1988,0,0,0,1,1,1.24715313803031668804e+00,4.22358666886187450895e-04,NULL);
INSERT INTO "examples" VALUES('6c6accaab76e4fde5414ebee30d265e3f9f1c558a3b5aeb71a738505787271cf',0,0,332,9,9,NULL,0.0,0.0,0.0,'','2347f12445c143e9a0909a564e7ca30b21381549a039fbeba96705bb799ecd6a','2347f12445c143e9a0909a564e7ca30b21381549a039fbeba96705bb799ecd6a',0,0,0,0,4,NULL,NULL,6.07566713976363369275e-06,3.55742185000053723342e-01,'{"D": [0, 0, 0, 0, 0, 1, 0, 0, 0, 31], "D''": [0, 1, 0, 2, 0, 2, 0, 0, 0, 27]}');
INSERT INTO "examples" VALUES('6c6accaab76e4fde5414ebee30d265e3f9f1c558a3b5aeb71a738505787271cf',0,1,53,6,6,NULL,0.0,0.0,0.0,'','46dcde6f4cf54a8e60c59b13485b807ed26cefb94ad6b19809c744a22d6f070d','46dcde6f4cf54a8e60c59b13485b807ed26cefb94ad6b19809c744a22d6f070d',0,0,0,0,4,NULL,NULL,6.07566713976363369275e-06,1.8041225100023439154e-01,'{"D": [0, 0, 0, 0, 0, 0, 32, 0, 0, 0], "D''": [1, 0, 0, 0, 0, 0, 31, 0, 0, 0]}');
INSERT INTO "examples" VALUES('6c6accaab76e4fde5414ebee30d265e3f9f1c558a3b5aeb71a738505787271cf',0,2,151,0,0,NULL,0.0,0.0,0.0,'','6f8dc4e4ccb7141aadcf899be18d082754aefef87aa27ae538a47181d911fd3a','6f8dc4e4ccb7141aadcf899be18d082754aefef87aa27ae538a47181d911fd3a',0,0,0,0,4,NULL,NULL,6.07566713976363369275e-06,1.81893866998507292009e-01,'{"D": [32, 0, 0, 0, 0, 0, 0, 0, 0, 0], "D''": [32, 0, 0, 0, 0, 0, 0, 0, 0, 0]}');
INSERT INTO "examples" VALUES('60e723fdf82728a9d5b040541cd7b574bbee53d78e8801ce6805b5daf6e6be25',0,0,332,9,8,NULL,2.00000002980232238769e-01,1.3099692545897263507e+00,50.0,'','2347f12445c143e9a0909a564e7ca30b21381549a039fbeba96705bb799ecd6a','8f544b41f48a388df3e4c36b33f1d29d1c5cbc6420d4b56d2dcd54adf27ab423',80,80,0,16,4,0,1,4.55196759599857614375e+00,9.84698089996527414768e-02,'{"D": [0, 0, 0, 0, 0, 9, 0, 0, 5, 18], "D''": [3, 0, 0, 1, 0, 1, 0, 0, 8, 19]}');
INSERT INTO "examples" VALUES('60e723fdf82728a9d5b040541cd7b574bbee53d78e8801ce6805b5daf6e6be25',0,1,53,6,6,NULL,2.00000002980232238769e-01,1.3003464991920981042e+00,54.0,'','46dcde6f4cf54a8e60c59b13485b807ed26cefb94ad6b19809c744a22d6f070d','63529b7a6dda8db784b648bb06dbb2d2bf668c98fbef5c3f01a80408a9cd1154',400,400,0,15,4,0,1,4.55196759599857614375e+00,1.57483207000041147693e-01,'{"D": [0, 0, 0, 0, 0, 0, 6, 0, 26, 0], "D''": [0, 1, 4, 3, 4, 3, 9, 0, 2, 6]}');
INSERT INTO "examples" VALUES('60e723fdf82728a9d5b040541cd7b574bbee53d78e8801ce6805b5daf6e6be25',0,2,151,0,4,NULL,2.00000002980232238769e-01,1.33836055052995428482e+00,51.0,'','6f8dc4e4ccb7141aadcf899be18d082754aefef87aa27ae538a47181d911fd3a','98953f7e5d858af38ae51e0bb0c0909e82d0a92859ae3746663a4c845135b046',400,400,0,15,4,0,1,4.55196759599857614375e+00,1.64032704999044653959e-01,'{"D": [20, 1, 0, 0, 1, 1, 8, 0, 1, 0], "D''": [16, 0, 0, 0, 12, 0, 2, 0, 2, 0]}');
CREATE TABLE games (
	run VARCHAR(64) NOT NULL, 
	game INTEGER NOT NULL, 
	rows INTEGER NOT NULL, 
	served INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	done BOOLEAN NOT NULL, 
	attack_s FLOAT NOT NULL, 
	defense_s FLOAT NOT NULL, 
	wall_s FLOAT NOT NULL, 
	background_answers INTEGER NOT NULL, 
	background_steps INTEGER NOT NULL, 
	background_s FLOAT NOT NULL, 
	flags JSON NOT NULL, background_delays JSON, 
	PRIMARY KEY (run, game), 
	FOREIGN KEY(run) REFERENCES runs ("key") ON DELETE CASCADE
);
INSERT INTO "games" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c',0,2,5,'',1,5.3014283299671660643e-01,8.03137535003770608454e-01,1.75477508999756537377e+00,5,20,5.18116948001988930627e-01,'{}','[0.14109326600009808, 0.08102129700091609, 0.08250143700024637, 0.12260173600043345, 0.09089921200029494]');
INSERT INTO "games" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c',1,2,5,'',1,5.11162642002091160975e-01,8.87635077002414618618e-01,1.78118390199779241811e+00,5,20,5.57898983002814929932e-01,'{}','[0.12302522699974361, 0.10498754699983692, 0.08269678600117913, 0.12315904900060559, 0.12403037400144967]');
INSERT INTO "games" VALUES('166a686705ce292b51d4d12964afab4bf87ede2119be66a7b4c6da2be33d3d74',0,3,3,'',1,2.38130014622584e-05,5.49315859989292221143e-02,3.91467181001644348725e-01,0,0,0.0,'{}',NULL);
INSERT INTO "games" VALUES('a110f59128e041cbcbc152e7fe5ad60a954b941eed3eb0c2523b6bbe777982a7',0,3,3,'',1,0.0,1.27077900106087327003e-03,2.22885149001740501262e-01,0,0,0.0,'{}',NULL);
INSERT INTO "games" VALUES('6c6accaab76e4fde5414ebee30d265e3f9f1c558a3b5aeb71a738505787271cf',0,3,3,'',1,1.82270014192909e-05,9.3188107900095928926e-01,1.54197262900197529233e+00,0,0,0.0,'{}',NULL);
INSERT INTO "games" VALUES('60e723fdf82728a9d5b040541cd7b574bbee53d78e8801ce6805b5daf6e6be25',0,3,3,'',1,1.36559027879957284312e+01,4.53803113998219487257e-01,1.67470007499996427209e+01,0,0,0.0,'{}',NULL);
CREATE TABLE images (
	run VARCHAR(64) NOT NULL, 
	game INTEGER NOT NULL, 
	start INTEGER NOT NULL, 
	count INTEGER NOT NULL, 
	file VARCHAR(64) NOT NULL, 
	PRIMARY KEY (run, game, start), 
	FOREIGN KEY(run) REFERENCES runs ("key") ON DELETE CASCADE
);
INSERT INTO "images" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c',0,0,2,'5263f2d410775baf4bbdd62752a873eccbf428ccabeba7b6f240a90978e63a0e');
INSERT INTO "images" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c',1,0,2,'fba1f233824d43f6db6b4d2a16cef4887507ce39bc2969a82833639657002a52');
INSERT INTO "images" VALUES('166a686705ce292b51d4d12964afab4bf87ede2119be66a7b4c6da2be33d3d74',0,0,3,'1bd677fb0e4813e8b83303ef076b142baef05ddf4c97f111434a555003d4c4a6');
INSERT INTO "images" VALUES('a110f59128e041cbcbc152e7fe5ad60a954b941eed3eb0c2523b6bbe777982a7',0,0,3,'55c99f3c6df14d2bc6e5e32dfc99a5c8c2d16b2a706bf08beb0a0d01f274f9ab');
INSERT INTO "images" VALUES('6c6accaab76e4fde5414ebee30d265e3f9f1c558a3b5aeb71a738505787271cf',0,0,3,'1bd677fb0e4813e8b83303ef076b142baef05ddf4c97f111434a555003d4c4a6');
INSERT INTO "images" VALUES('60e723fdf82728a9d5b040541cd7b574bbee53d78e8801ce6805b5daf6e6be25',0,0,1,'b304ec1f72f419c95c76fce0a2805aa4ebe67d79c6ab36dde9a1a672cc7db710');
INSERT INTO "images" VALUES('60e723fdf82728a9d5b040541cd7b574bbee53d78e8801ce6805b5daf6e6be25',0,1,2,'522380801e75fd37d9cbbc2ce11f370e82a9b9b7cfedbc830c8c6a36067aed0f');
CREATE TABLE runs (
	"key" VARCHAR(64) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	spec JSON NOT NULL, 
	defense VARCHAR(200) NOT NULL, 
	base VARCHAR(200) NOT NULL, 
	attack VARCHAR(200) NOT NULL, 
	dataset VARCHAR(200) NOT NULL, 
	clean_key VARCHAR(64), 
	provenance JSON NOT NULL, 
	host VARCHAR(200) NOT NULL, 
	pid INTEGER NOT NULL, 
	process_start FLOAT NOT NULL, 
	heartbeat FLOAT NOT NULL, 
	created FLOAT NOT NULL, 
	finished FLOAT, 
	PRIMARY KEY ("key")
);
INSERT INTO "runs" VALUES('a968f308d53e1326527515381bce80b78744dd6f684843ee560ffd5284df0c9c','DONE','','','{"defense": {"name": "rmc", "version": 1, "source": "ed3d0e9b3839798c2232eb45303c9685a16f54ccc98033d421a5e88a055bfc8e", "params": {"copies": 1, "bank_steps": "3", "bank_step_size": 0.0, "eps": 0.2, "bank_size": 0, "index": "flat", "probes": 16, "recipe": "fast", "k": 32, "lr": 0.003, "epochs": 2, "patience": 1, "batch_size": 128, "carry": true, "nearest_share": 0.2, "validation_share": 0.25, "calibrate_k": 0, "calibration_validation_share": 0.125, "restore_best": false, "stop_train_loss": 0.0, "calibrate_on": "all", "batch_norm": "frozen"}}, "kind": "online", "base": {"name": "regular", "version": 1, "source": "67dae8174eb8dd49a3f0f8a18ab88153c3aaea2fc7b23a64eb8169bb8091aab4", "params": {"model": "auto", "weights": "", "epochs": 4, "batch_size": 64, "lr": 0.001, "weight_decay": 0.0, "augment": false}}, "base_seed": 0, "network": {"name": "digits-cnn", "version": 1, "source": "11f7cb8c87945d929f680c2ced98277f388c34390f59966aaa173933a7d1405c", "params": {}}, "attack": {"name": "pgd-skip-delayed", "version": 1, "source": "72b77b87477ef4a46db0fa254b4dddfed2b4fca8f28065dec837906139e7783a", "params": {"steps": 40, "rel_step_size": 0.0333333333, "restarts": 1}}, "attack_kind": "budget", "dataset": {"name": "digits", "version": 1, "source": "2ecac6a51ac6910c6e3a4c278d9f91923013dfbbdd6c2c73e1a9cfd26fcfb842", "params": {"train_size": 0, "split": "test"}}, "test_size": 500, "threat": {"norm": "linf", "eps": 0.2, "targeted": false, "weights": "adapted", "surrogate": "", "bank": true, "known": 1.0, "delay": 2, "randomness": "private", "queries": 0, "queries_served": false}, "game": {"protocol": "probe", "p": 3, "trials": 2, "repeats": 1, "batch": 0}, "n": 4, "seed": 0, "surrogate": null, "chosen": null, "harness": 1}','rmc','regular','pgd-skip-delayed','digits',NULL,'{"environment": {"device": "cpu", "torch": "2.13.0+cpu", "numpy": "2.4.6", "faiss": "1.15.1", "foolbox": "3.3.4", "art": "1.20.1", "pillow": "13.0.0", "machine": "x86_64"}, "host": "host", "cores": 2, "processor": "", "python": "3.11.7", "versions": {"adversarial-game-bench": "0.1.0", "foolbox": "3.3.4", "adversarial-robustness-toolbox": "1.20.1", "scipy": "1.17.1", "scikit-learn": "1.9.1", "sqlalchemy": "2.1.9"}, "commit": "cc9e0ec7bac224d93a2a04b2f989729773fa2def", "started": "2026-11-26T13:11:26+00:00"}','',0,0.0,1.79569871349409842489e+09,1.79569868644062638277e+09,1.79569871349376940727e+09);
INSERT INTO "runs" VALUES('166a686705ce292b51d4d12964afab4bf87ede2119be66a7b4c6da2be33d3d74','DONE','','','{"defense": {"name": "regular", "version": 1, "source": "67dae8174eb8dd49a3f0f8a18ab88153c3aaea2fc7b23a64eb8169bb8091aab4", "params": {"model": "auto", "weights": "", "epochs": 4, "batch_size": 64, "lr": 0.001, "weight_decay": 0.0, "augment": false}}, "kind": "static", "base": {"name": "regular", "version": 1, "source": "67dae8174eb8dd49a3f0f8a18ab88153c3aaea2fc7b23a64eb8169bb8091aab4", "params": {"model": "auto", "weights": "", "epochs": 4, "batch_size": 64, "lr": 0.001, "weight_decay": 0.0, "augment": false}}, "base_seed": 0, "network": {"name": "digits-cnn", "version": 1, "source": "11f7cb8c87945d929f680c2ced98277f388c34390f59966aaa173933a7d1405c", "params": {}}, "attack": {"name": "clean", "version": 1, "source": "8b673e3c4f4e8110f4e8b55fc0e35758ada6676d224fb4c2c9934dd598b35936", "params": {}}, "attack_kind": "budget", "dataset": {"name": "digits", "version": 1, "source": "2ecac6a51ac6910c6e3a4c278d9f91923013dfbbdd6c2c73e1a9cfd26fcfb842", "params": {"train_size": 0, "split": "test"}}, "test_size": 500, "threat": {"norm": "linf", "eps": 0.0, "targeted": false, "weights": "none", "surrogate": "", "bank": false, "known": 1.0, "delay": 0, "randomness": "private", "queries": 0, "queries_served": false}, "game": {"protocol": "stream", "p": 0, "trials": 1, "repeats": 1, "batch": 0}, "n": 3, "seed": 0, "surrogate": null, "chosen": null, "harness": 1}','regular','regular','clean','digits',NULL,'{"environment": {"device": "cpu", "torch": "2.13.0+cpu", "numpy": "2.4.6", "faiss": "1.15.1", "foolbox": "3.3.4", "art": "1.20.1", "pillow": "13.0.0", "machine": "x86_64"}, "host": "host", "cores": 2, "processor": "", "python": "3.11.7", "versions": {"adversarial-game-bench": "0.1.0", "foolbox": "3.3.4", "adversarial-robustness-toolbox": "1.20.1", "scipy": "1.17.1", "scikit-learn": "1.9.1", "sqlalchemy": "2.1.9"}, "commit": "cc9e0ec7bac224d93a2a04b2f989729773fa2def", "started": "2026-11-26T13:13:09+00:00"}','',0,0.0,1.79569879061728787422e+09,1.79569878952443099024e+09,1.79569879061701202392e+09);
INSERT INTO "runs" VALUES('a110f59128e041cbcbc152e7fe5ad60a954b941eed3eb0c2523b6bbe777982a7','DONE','','','{"defense": {"name": "regular", "version": 1, "source": "67dae8174eb8dd49a3f0f8a18ab88153c3aaea2fc7b23a64eb8169bb8091aab4", "params": {"model": "auto", "weights": "", "epochs": 4, "batch_size": 64, "lr": 0.001, "weight_decay": 0.0, "augment": false}}, "kind": "static", "base": {"name": "regular", "version": 1, "source": "67dae8174eb8dd49a3f0f8a18ab88153c3aaea2fc7b23a64eb8169bb8091aab4", "params": {"model": "auto", "weights": "", "epochs": 4, "batch_size": 64, "lr": 0.001, "weight_decay": 0.0, "augment": false}}, "base_seed": 0, "network": {"name": "digits-cnn", "version": 1, "source": "11f7cb8c87945d929f680c2ced98277f388c34390f59966aaa173933a7d1405c", "params": {}}, "attack": {"name": "cw-l2", "version": 1, "source": "47f4698ccc12d8d01a7e7efeb88af4e26c4cc593da0c86ab319af621dd33cac0", "params": {"binary_search_steps": 9, "steps": 300, "step_size": 0.05, "initial_const": 0.1, "confidence": 0.0}}, "attack_kind": "minimal", "dataset": {"name": "digits", "version": 1, "source": "2ecac6a51ac6910c6e3a4c278d9f91923013dfbbdd6c2c73e1a9cfd26fcfb842", "params": {"train_size": 0, "split": "test"}}, "test_size": 500, "threat": {"norm": "l2", "eps": 1.0, "targeted": false, "weights": "trained", "surrogate": "", "bank": false, "known": 1.0, "delay": 0, "randomness": "private", "queries": 0, "queries_served": false}, "game": {"protocol": "stream", "p": 0, "trials": 1, "repeats": 1, "batch": 0}, "n": 3, "seed": 0, "surrogate": null, "chosen": null, "harness": 1}','regular','regular','cw-l2','digits','166a686705ce292b51d4d12964afab4bf87ede2119be66a7b4c6da2be33d3d74','{"environment": {"device": "cpu", "torch": "2.13.0+cpu", "numpy": "2.4.6", "faiss": "1.15.1", "foolbox": "3.3.4", "art": "1.20.1", "pillow": "13.0.0", "machine": "x86_64"}, "host": "host", "cores": 2, "processor": "", "python": "3.11.7", "versions": {"adversarial-game-bench": "0.1.0", "foolbox": "3.3.4", "adversarial-robustness-toolbox": "1.20.1", "scipy": "1.17.1", "scikit-learn": "1.9.1", "sqlalchemy": "2.1.9"}, "commit": "cc9e0ec7bac224d93a2a04b2f989729773fa2def", "started": "2026-11-26T13:13:09+00:00"}','',0,0.0,1.79569892330835914609e+09,1.795698790659894228e+09,1.79569892330799150471e+09);
INSERT INTO "runs" VALUES('6c6accaab76e4fde5414ebee30d265e3f9f1c558a3b5aeb71a738505787271cf','DONE','','','{"defense": {"name": "rmc", "version": 1, "source": "ed3d0e9b3839798c2232eb45303c9685a16f54ccc98033d421a5e88a055bfc8e", "params": {"copies": 1, "bank_steps": "3", "bank_step_size": 0.0, "eps": 0.2, "bank_size": 0, "index": "flat", "probes": 16, "recipe": "fast", "k": 32, "lr": 0.003, "epochs": 2, "patience": 1, "batch_size": 128, "carry": true, "nearest_share": 0.2, "validation_share": 0.25, "calibrate_k": 0, "calibration_validation_share": 0.125, "restore_best": false, "stop_train_loss": 0.0, "calibrate_on": "all", "batch_norm": "frozen"}}, "kind": "online", "base": {"name": "regular", "version": 1, "source": "67dae8174eb8dd49a3f0f8a18ab88153c3aaea2fc7b23a64eb8169bb8091aab4", "params": {"model": "auto", "weights": "", "epochs": 4, "batch_size": 64, "lr": 0.001, "weight_decay": 0.0, "augment": false}}, "base_seed": 0, "network": {"name": "digits-cnn", "version": 1, "source": "11f7cb8c87945d929f680c2ced98277f388c34390f59966aaa173933a7d1405c", "params": {}}, "attack": {"name": "clean", "version": 1, "source": "8b673e3c4f4e8110f4e8b55fc0e35758ada6676d224fb4c2c9934dd598b35936", "params": {}}, "attack_kind": "budget", "dataset": {"name": "digits", "version": 1, "source": "2ecac6a51ac6910c6e3a4c278d9f91923013dfbbdd6c2c73e1a9cfd26fcfb842", "params": {"train_size": 0, "split": "test"}}, "test_size": 500, "threat": {"norm": "linf", "eps": 0.0, "targeted": false, "weights": "none", "surrogate": "", "bank": false, "known": 1.0, "delay": 0, "randomness": "private", "queries": 0, "queries_served": false}, "game": {"protocol": "stream", "p": 0, "trials": 1, "repeats": 1, "batch": 0}, "n": 3, "seed": 0, "surrogate": null, "chosen": null, "harness": 1}','rmc','regular','clean','digits',NULL,'{"environment": {"device": "cpu", "torch": "2.13.0+cpu", "numpy": "2.4.6", "faiss": "1.15.1", "foolbox": "3.3.4", "art": "1.20.1", "pillow": "13.0.0", "machine": "x86_64"}, "host": "host", "cores": 2, "processor": "", "python": "3.11.7", "versions": {"adversarial-game-bench": "0.1.0", "foolbox": "3.3.4", "adversarial-robustness-toolbox": "1.20.1", "scipy": "1.17.1", "scikit-learn": "1.9.1", "sqlalchemy": "2.1.9"}, "commit": "cc9e0ec7bac224d93a2a04b2f989729773fa2def", "started": "2026-11-26T13:16:49+00:00"}','',0,0.0,1.79569903470770621299e+09,1.79569901012839245801e+09,1.79569903463911533358e+09);
INSERT INTO "runs" VALUES('60e723fdf82728a9d5b040541cd7b574bbee53d78e8801ce6805b5daf6e6be25','DONE','','','{"defense": {"name": "rmc", "version": 1, "source": "ed3d0e9b3839798c2232eb45303c9685a16f54ccc98033d421a5e88a055bfc8e", "params": {"copies": 1, "bank_steps": "3", "bank_step_size": 0.0, "eps": 0.2, "bank_size": 0, "index": "flat", "probes": 16, "recipe": "fast", "k": 32, "lr": 0.003, "epochs": 2, "patience": 1, "batch_size": 128, "carry": true, "nearest_share": 0.2, "validation_share": 0.25, "calibrate_k": 0, "calibration_validation_share": 0.125, "restore_best": false, "stop_train_loss": 0.0, "calibrate_on": "all", "batch_norm": "frozen"}}, "kind": "online", "base": {"name": "regular", "version": 1, "source": "67dae8174eb8dd49a3f0f8a18ab88153c3aaea2fc7b23a64eb8169bb8091aab4", "params": {"model": "auto", "weights": "", "epochs": 4, "batch_size": 64, "lr": 0.001, "weight_decay": 0.0, "augment": false}}, "base_seed": 0, "network": {"name": "digits-cnn", "version": 1, "source": "11f7cb8c87945d929f680c2ced98277f388c34390f59966aaa173933a7d1405c", "params": {}}, "attack": {"name": "fpa", "version": 1, "source": "6aaf5602bdb686af7adda09066b0de4408d96e4b66916f716573e0b5bdb7d050", "params": {"rounds": 10, "steps": 40, "rel_step_size": 0.0333333333}}, "attack_kind": "budget", "dataset": {"name": "digits", "version": 1, "source": "2ecac6a51ac6910c6e3a4c278d9f91923013dfbbdd6c2c73e1a9cfd26fcfb842", "params": {"train_size": 0, "split": "test"}}, "test_size": 500, "threat": {"norm": "linf", "eps": 0.2, "targeted": false, "weights": "simulated", "surrogate": "", "bank": true, "known": 1.0, "delay": 0, "randomness": "private", "queries": 0, "queries_served": false}, "game": {"protocol": "replay", "p": 0, "trials": 1, "repeats": 1, "batch": 0}, "n": 3, "seed": 0, "surrogate": null, "chosen": null, "harness": 1}','rmc','regular','fpa','digits','6c6accaab76e4fde5414ebee30d265e3f9f1c558a3b5aeb71a738505787271cf','{"environment": {"device": "cpu", "torch": "2.13.0+cpu", "numpy": "2.4.6", "faiss": "1.15.1", "foolbox": "3.3.4", "art": "1.20.1", "pillow": "13.0.0", "machine": "x86_64"}, "host": "host", "cores": 2, "processor": "", "python": "3.11.7", "versions": {"adversarial-game-bench": "0.1.0", "foolbox": "3.3.4", "adversarial-robustness-toolbox": "1.20.1", "scipy": "1.17.1", "scikit-learn": "1.9.1", "sqlalchemy": "2.1.9"}, "commit": "cc9e0ec7bac224d93a2a04b2f989729773fa2def", "started": "2026-11-26T13:16:49+00:00"}','',0,0.0,1.79569905165264153473e+09,1.79569903474115538603e+09,1.7956990516524145603e+09);
CREATE TABLE suite_runs (
	suite VARCHAR(200) NOT NULL, 
	run VARCHAR(64) NOT NULL, 
	PRIMARY KEY (suite, run)
);
CREATE INDEX runs_by_cell ON runs (dataset, defense, attack);
COMMIT;
