import subprocess, sys
subprocess.run([sys.executable,"-m","pytest","-q","-x","tests/test_run.py","-k","round or required or whole or children"])
subprocess.run([sys.executable,"-m","pytest","-q","tests/test_report.py"])
