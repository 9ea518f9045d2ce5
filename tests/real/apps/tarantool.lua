box.cfg{listen = '127.0.0.1:@PORT@', work_dir = '.', log_level = 3, memtx_memory = 33554432}
