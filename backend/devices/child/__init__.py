"""One child process for a batch of cases on a GPU: started, fed, timed, named when it dies, run again. Knows no kernel."""
